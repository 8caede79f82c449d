"""Sampled answers and votes on them, for the tests of ranking."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from stance.data.samples import SampledAnswer, Samples
from stance.data.votes import Vote
from stance.ranking.items import Item

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
_seconds = count()


def sampled(ident: int, texts: Sequence[str], spread: float = 1.0) -> Samples:
    """Return answers whose mean log-probabilities lie `spread` apart."""
    answers = [SampledAnswer.of(text, "stop", [-spread * place - 0.5] * 2) for place, text in enumerate(texts)]
    return Samples(id=ident, prompt=f"Is it worth seeing ({ident})?", answers=answers, dropped=0)


def several(number: int, answers: int = 3) -> list[Samples]:
    """Return questions, the first of which has the smallest margin."""
    return [
        sampled(ident, [f"answer {letter} to {ident}" for letter in "abcdefghi"[:answers]], ident / 10)
        for ident in range(1, number + 1)
    ]


def vote_on(item: Item, ranks: Sequence[int], by: str, **changes: Any) -> Vote:
    """Return a vote on an item, a second later than the vote before."""
    values = {
        "prompt_id": item.id, "answers": [answer.sha256 for answer in item.answers], "ranks": list(ranks), "by": by,
        "at": AT + timedelta(seconds=next(_seconds)), "seed": item.seed,
    }  # fmt: skip
    return Vote.model_validate(values | changes)


def ranked_by_text(item: Item, by: str, **changes: Any) -> Vote:
    """Return the vote that ranks the answers of an item in the order of their texts."""
    texts = sorted(answer.text for answer in item.answers)
    return vote_on(item, [texts.index(answer.text) + 1 for answer in item.answers], by, **changes)
