"""What a voter ranks next: the questions in their order, the answers in a random order, and what is shown again.

In: `data/samples/samples.jsonl` and all votes so far. Out: the next item of a voter. Nothing else is kept, so that a
page that was closed goes on where it stopped.

Questions whose answers are close to each other come first, because they teach most (arXiv 2406.17312). The first
`SHARED` of them are the same for all voters, which measures how far people agree. Then come the questions that fewest
people have ranked. After every `REPEAT_AFTER` questions one of them is shown again in another order, and the voter is
not told. This measures how far a voter agrees with himself.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import fmean
from typing import NamedTuple

from stance.data.samples import SampledAnswer, Samples
from stance.data.votes import Score, Vote, latest

SHARED = 20
"""Questions that every voter ranks first."""
REPEAT_AFTER = 10
"""Questions after which one of them is shown again."""


class Item(NamedTuple):
    """A question with its answers, as a voter sees them."""

    id: int
    """The id of the question."""
    prompt: str
    answers: tuple[SampledAnswer, ...]
    """The answers in the order in which they are shown. Shape (K,)."""
    seed: int
    """The seed of this order."""
    vote: Vote | None = None
    """The voter's earlier vote on this item, if there is one."""

    @property
    def key(self) -> str:
        """Return a name of the item that no other item of the voter has."""
        return f"{self.id}-{self.seed}"


class Progress(NamedTuple):
    """How far a voter is."""

    voted: int
    """Items that are ranked or skipped; repeated ones included."""
    total: int
    """Items in all; repeated ones included."""
    skipped: int
    """Items that the voter has skipped."""


def rankable(samples: Iterable[Samples], scores: Iterable[Score] = ()) -> list[Samples]:
    """Return the questions with at least two answers, those with the smallest margin first.

    Args:
        samples: The sampled answers.
        scores: Scores of single answers, for example rewards. They give the margins if every answer has one.
    """
    rows = [row for row in samples if len(row.answers) > 1]
    values = {(score.prompt_id, score.answer): score.score for score in scores}
    if any((row.id, answer.sha256) not in values for row in rows for answer in row.answers):
        values = {(row.id, answer.sha256): mean_logp(answer) for row in rows for answer in row.answers}
    return sorted(rows, key=lambda row: margin([values[row.id, answer.sha256] for answer in row.answers]))


def mean_logp(answer: SampledAnswer) -> float:
    """Return the mean log-probability of an answer's tokens, in nats; 0 for an answer without tokens."""
    return fmean(answer.logps) if answer.logps else 0.0


def margin(values: Sequence[float]) -> float:
    """Return the mean absolute difference of every two values."""
    return fmean(abs(a - b) for a, b in combinations(values, 2))


def seed_of(voter: str, ident: int, time: int) -> int:
    """Return the seed of the order of answers. `time` is 0 for the first time, 1 for the repetition."""
    digest = hashlib.sha256(f"{voter}\n{ident}\n{time}".encode()).digest()
    return int.from_bytes(digest[:4])


def shown(row: Samples, seed: int, vote: Vote | None = None) -> Item:
    """Return a question with its answers in the order of a seed."""
    answers = sorted(row.answers, key=lambda answer: answer.sha256)
    random.Random(seed).shuffle(answers)
    return Item(row.id, row.prompt, tuple(answers), seed, vote)


def item_of(vote: Vote, rows: Iterable[Samples]) -> Item:
    """Return the item that a vote is about, with the answers in the order in which they were shown."""
    [row] = [row for row in rows if row.id == vote.prompt_id]
    by_hash = {answer.sha256: answer for answer in row.answers}
    return Item(row.id, row.prompt, tuple(by_hash[answer] for answer in vote.answers), vote.seed, vote)


def own_votes(rows: Sequence[Samples], votes: Iterable[Vote], voter: str) -> list[Vote]:
    """Return the voter's latest votes on these answers, the newest last."""
    answers = {row.id: row.texts().keys() for row in rows}
    own = [vote for vote in latest(votes) if vote.by == voter and answers.get(vote.prompt_id) == set(vote.answers)]
    return sorted(own, key=lambda vote: vote.at)


def next_item(rows: Sequence[Samples], votes: Sequence[Vote], voter: str, *, again: bool = False) -> Item | None:
    """Return what the voter ranks next; None if everything is ranked or skipped.

    Args:
        rows: The questions, in the order of `rankable`.
        votes: The votes of all voters.
        voter: The voter's name.
        again: Whether skipped items are shown again at the end.
    """
    own = own_votes(rows, votes, voter)
    if repeated := _repeated(rows, own, voter):
        return repeated
    others = {(vote.prompt_id, vote.by) for vote in latest(votes) if vote.by != voter and not vote.skipped}
    counts = Counter(ident for ident, _ in others)
    voted = {vote.prompt_id for vote in own}
    waiting = [
        ((place >= SHARED) * (1 + counts[row.id]), place) for place, row in enumerate(rows) if row.id not in voted
    ]
    if waiting:
        row = rows[min(waiting)[1]]
        return shown(row, seed_of(voter, row.id, 0))
    skipped = [vote for vote in own if vote.skipped]
    return item_of(skipped[0], rows) if again and skipped else None


def _repeated(rows: Sequence[Samples], own: Sequence[Vote], voter: str) -> Item | None:
    """Return the item that is shown again now, if one is due: the first of the last `REPEAT_AFTER` new ones."""
    repeats = {vote.prompt_id for vote in own if vote.seed == seed_of(voter, vote.prompt_id, 1)}
    first = [vote for vote in own if vote.seed != seed_of(voter, vote.prompt_id, 1)]
    if len(repeats) >= len(first) // REPEAT_AFTER:
        return None
    candidates = [vote.prompt_id for vote in first if not vote.skipped and vote.prompt_id not in repeats]
    oldest = candidates[-REPEAT_AFTER:][:1]
    return next((shown(row, seed_of(voter, row.id, 1)) for row in rows if row.id in oldest), None)


def progress(rows: Sequence[Samples], votes: Iterable[Vote], voter: str) -> Progress:
    """Return how far a voter is."""
    own = own_votes(rows, votes, voter)
    return Progress(len(own), len(rows) + len(rows) // REPEAT_AFTER, sum(vote.skipped for vote in own))
