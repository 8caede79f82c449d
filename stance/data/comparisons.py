"""What a reward model learns from: comparisons of two answers to one question, or scores of single answers.

In: preference pairs, or votes or scores with the samples that they are about. Out: rows with the texts, and their
split into rows to train on and rows held out. The split is by question, so that no held-out answer belongs to a
question that was trained on. All comparisons of one question stand together.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import fmean, pstdev
from typing import NamedTuple, TypeVar

from stance.data.chat import Message, conversation
from stance.data.preferences import Pair
from stance.data.samples import Samples
from stance.data.votes import Score, Vote, ranked_pairs
from stance.errors import InputError

Answer = tuple[int, str]
"""The id of a question, and the text of an answer to it."""


class Comparison(NamedTuple):
    """Two answers to a question, of which one is preferred."""

    id: int
    """The id of the question."""
    prompt: list[Message]
    chosen: str
    rejected: str
    distance: int = 1
    """Ranks between the two answers."""
    chosen_first: bool | None = None
    """Whether the voter saw the preferred answer first; None where nobody saw the two in an order."""


class Scored(NamedTuple):
    """An answer to a question with its score, in standard deviations from the mean of all scores."""

    id: int
    prompt: list[Message]
    answer: str
    score: float


def of_pairs(pairs: Iterable[Pair]) -> list[Comparison]:
    """Return the comparisons of preference pairs.

    Raises:
        InputError: Every pair also stands there the other way round, so that nothing is preferred.
    """
    rows = [
        Comparison(pair.id, [turn.model_dump() for turn in pair.prompt], pair.chosen_text, pair.rejected_text)
        for pair in pairs
    ]
    ways = {(row.id, row.chosen, row.rejected) for row in rows}
    if rows and all((ident, rejected, chosen) in ways for ident, chosen, rejected in ways):
        raise InputError(
            "every preference pair also stands there the other way round, so that a reward model learns nothing; set "
            "pairs.order to first, interleaved or shuffled"
        )
    return rows


def of_votes(votes: Iterable[Vote], samples: Iterable[Samples], system_prompt: str) -> list[Comparison]:
    """Return the comparisons that follow from votes, those of one question together."""
    by_id = {row.id: row for row in samples}
    rows = []
    for vote in sorted(votes, key=lambda vote: vote.prompt_id):
        sampled = by_id[vote.prompt_id]
        texts, prompt = sampled.texts(), conversation(system_prompt, sampled.prompt)
        for pair in ranked_pairs(vote):
            first = vote.answers.index(pair.chosen) < vote.answers.index(pair.rejected)
            rows.append(Comparison(sampled.id, prompt, texts[pair.chosen], texts[pair.rejected], pair.distance, first))
    return rows


def of_scores(scores: Sequence[Score], samples: Iterable[Samples], system_prompt: str) -> list[Scored]:
    """Return the scored answers. There are at least two different scores (`require_scored`)."""
    by_id = {row.id: row for row in samples}
    mean, deviation = fmean(row.score for row in scores), pstdev(row.score for row in scores)
    return [
        Scored(
            row.prompt_id,
            conversation(system_prompt, by_id[row.prompt_id].prompt),
            by_id[row.prompt_id].texts()[row.answer],
            (row.score - mean) / deviation,
        )
        for row in sorted(scores, key=lambda row: row.prompt_id)
    ]


def compared(rows: Sequence[Scored]) -> list[Comparison]:
    """Return a comparison for every two answers to one question that have different scores."""
    return [
        Comparison(a.id, a.prompt, *((a.answer, b.answer) if a.score > b.score else (b.answer, a.answer)))
        for a, b in combinations(rows, 2)
        if a.id == b.id and a.score != b.score
    ]


def answers_of(rows: Iterable[Comparison | Scored]) -> dict[Answer, list[Message]]:
    """Return every answer once, with the conversation that it ends."""
    answers: dict[Answer, list[Message]] = {}
    for row in rows:
        for text in (row.answer,) if isinstance(row, Scored) else (row.chosen, row.rejected):
            answers[row.id, text] = row.prompt
    return answers


Row = TypeVar("Row", bound=Comparison | Scored)


def split(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Return the rows to train on, in an order of the questions that the seed decides, and the rows held out.

    Args:
        rows: The rows; there is at least one.
        share: Share of the questions that are held out; at least one question is held out, and at least one is not.
        seed: Decides which questions are held out.

    Raises:
        InputError: All rows are about one question.
    """
    questions = sorted({row.id for row in rows})
    if len(questions) < 2:
        raise InputError(
            f"the reward model would learn from answers to {len(questions)} question; expected at least 2, one of them "
            "to measure its accuracy on"
        )
    random.Random(seed).shuffle(questions)
    count = min(max(round(share * len(questions)), 1), len(questions) - 1)
    place = {ident: number for number, ident in enumerate(questions)}
    ordered = sorted(rows, key=lambda row: place[row.id])
    return [row for row in ordered if place[row.id] >= count], [row for row in ordered if place[row.id] < count]
