"""Votes as rows for training elsewhere: TRL's preference format, and KTO's rows with a label."""

from collections.abc import Iterable, Sequence
from typing import Any

from stance.data.chat import conversation
from stance.data.samples import Samples
from stance.data.votes import Vote
from stance.ranking.pairs import pairs_of


def preference_rows(votes: Iterable[Vote], samples: Sequence[Samples], system_prompt: str) -> list[dict[str, Any]]:
    """Return a row with `prompt`, `chosen` and `rejected` for every pair, as messages."""
    pairs = pairs_of(votes, samples, system_prompt)
    return [pair.model_dump(include={"prompt", "chosen", "rejected"}) for pair in pairs]


def kto_rows(votes: Iterable[Vote], samples: Sequence[Samples], system_prompt: str) -> list[dict[str, Any]]:
    """Return a row with `prompt`, `completion` and `label` for every answer that a vote calls good or bad.

    The best answers of a ranking are good and the worst ones bad; those between are left out. If all are bad, every
    answer is bad. A tie of all says neither.
    """
    by_id = {row.id: row for row in samples}
    return [
        {
            "prompt": list(conversation(system_prompt, by_id[vote.prompt_id].prompt)),
            "completion": [{"role": "assistant", "content": by_id[vote.prompt_id].texts()[answer]}],
            "label": label,
        }
        for vote in votes
        for answer, label in labels(vote)
    ]


def labels(vote: Vote) -> list[tuple[str, bool]]:
    """Return the answers that a vote calls good or bad, by their hash."""
    if vote.all_bad:
        return [(answer, False) for answer in vote.answers]
    if vote.skipped or vote.is_tie:
        return []
    best, worst = min(vote.ranks), max(vote.ranks)
    return [
        (answer, rank == best) for answer, rank in zip(vote.answers, vote.ranks, strict=True) if rank in (best, worst)
    ]
