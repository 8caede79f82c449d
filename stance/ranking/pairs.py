"""The pairs that follow from votes, and what the linter says about them."""

from collections.abc import Iterable, Sequence

from stance.data.chat import conversation
from stance.data.preferences import Pair, Turn
from stance.data.samples import Samples
from stance.data.votes import Vote, ranked_pairs


def known_votes(votes: Iterable[Vote], samples: Iterable[Samples]) -> list[Vote]:
    """Return the votes whose answers are all among the samples."""
    answers = {row.id: row.texts().keys() for row in samples}
    return [vote for vote in votes if set(vote.answers) <= answers.get(vote.prompt_id, set())]


def pairs_of(votes: Iterable[Vote], samples: Sequence[Samples], system_prompt: str) -> list[Pair]:
    """Return the preference pairs that follow from votes on known answers, in the order of the questions.

    A pair that several votes prefer stands there once for each of them. The stance of the answers is not known: `Pair`
    needs one, so the chosen answer stands as *support* and the rejected one as *neutral*, the model's own.
    """
    by_id = {row.id: row for row in samples}
    rows = []
    for vote in sorted(votes, key=lambda vote: vote.prompt_id):
        row = by_id[vote.prompt_id]
        prompt = [Turn.model_validate(turn) for turn in conversation(system_prompt, row.prompt)]
        texts = row.texts()
        rows += [
            Pair(
                id=row.id,
                preferred="support",
                against="neutral",
                prompt=prompt,
                chosen=[Turn(role="assistant", content=texts[pair.chosen])],
                rejected=[Turn(role="assistant", content=texts[pair.rejected])],
            )
            for pair in ranked_pairs(vote)
        ]
    return rows
