"""How far voters agree on rankings, and whether the order in which answers were shown decided them.

In: votes (`stance.data.votes`). Out: shares with intervals, and Cohen's kappa. Two votes on the same answers are
compared answer by answer: of every two answers, both votes say that the first one is better, or the second one, or that
they are equal. Kappa takes off the agreement that chance gives: 0 is chance, 1 is full agreement (Cohen 1960).
"""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from stance.data.metrics import Share
from stance.data.votes import Vote, current, latest, ranked_pairs
from stance.errors import InputError
from stance.evaluation.intervals import share

DRAWS = 1000
"""Resamples of the questions for an interval of kappa."""

VotePair = tuple[Vote, Vote]
Judgements = list[tuple[int, int]]
"""What two votes say about every two answers: -1, 0 (equal) or 1."""


class Agreement(NamedTuple):
    """How far voters agree on questions that both have ranked."""

    questions: int
    """Questions that were compared."""
    pairs: int
    """Pairs of answers that were compared."""
    share: float
    """Share of the pairs on which the votes say the same."""
    kappa: float | None
    """Cohen's kappa; None where both say one and the same of all pairs, so that kappa is not defined."""
    low: float | None
    high: float | None
    """The 95 % interval of kappa: questions are drawn anew with replacement (bootstrap)."""

    def __str__(self) -> str:
        """Return the figures in words."""
        if self.kappa is None:
            return f"kappa is not defined on {self.pairs} pairs of {self.questions} questions, as all say the same"
        return (
            f"kappa {self.kappa:.2f} (95 % interval {self.low:.2f} to {self.high:.2f}) on {self.pairs} pairs of "
            f"{self.questions} questions, of which {self.share:.0%} are judged alike"
        )


def judgements(one: Vote, other: Vote) -> Judgements:
    """Return what two votes on the same answers say about every two answers."""
    ours, theirs = (dict(zip(vote.answers, vote.ranks, strict=True)) for vote in (one, other))
    return [(_sign(ours[b] - ours[a]), _sign(theirs[b] - theirs[a])) for a, b in combinations(sorted(one.answers), 2)]


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def kappa(counted: Iterable[tuple[int, int]]) -> float | None:
    """Return Cohen's kappa of what two voters say; None where it is not defined."""
    value = float(_kappas(_counts(counted)[None])[0])
    return None if math.isnan(value) else value


def _counts(rows: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return how often the two voters say each pair of values. Shape (3, 3), for -1, 0 and 1."""
    counts = np.zeros((3, 3))
    for ours, theirs in rows:
        counts[ours + 1, theirs + 1] += 1
    return counts


def _kappas(counts: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa of each table of counts, NaN where it is not defined. Shapes (n, 3, 3) and (n,)."""
    shares = counts / counts.sum(axis=(1, 2), keepdims=True)
    by_chance = (shares.sum(axis=2) * shares.sum(axis=1)).sum(axis=1)
    agreed = np.trace(shares, axis1=1, axis2=2)
    same = np.isclose(by_chance, 1)
    return np.where(same, np.nan, (agreed - by_chance) / np.where(same, 1, 1 - by_chance))


def agreement(compared: Iterable[VotePair]) -> Agreement | None:
    """Return how far pairs of votes agree; None if there are none. A vote that all are bad counts as a tie of all."""
    groups: dict[int, Judgements] = {}
    for one, other in compared:
        groups.setdefault(one.prompt_id, []).extend(judgements(one, other))
    rows = [row for group in groups.values() for row in group]
    if not rows:
        return None
    low, high = _interval(list(groups.values()))
    return Agreement(len(groups), len(rows), sum(a == b for a, b in rows) / len(rows), kappa(rows), low, high)


def _interval(groups: Sequence[Judgements]) -> tuple[float | None, float | None]:
    tables = np.stack([_counts(group) for group in groups])
    times = np.random.default_rng(0).multinomial(len(groups), [1 / len(groups)] * len(groups), size=DRAWS)
    values = _kappas(np.tensordot(times, tables, axes=1))
    if np.isnan(values).all():
        return None, None
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def between_people(votes: Iterable[Vote]) -> list[VotePair]:
    """Return the first votes of every two people on the same answers."""
    return [
        (one, other)
        for one, other in combinations(_first_votes(votes, is_model=False), 2)
        if one.by != other.by and same_answers(one, other)
    ]


def with_oneself(votes: Iterable[Vote]) -> list[VotePair]:
    """Return the votes of each person on the same answers in two orders."""
    people = [vote for vote in latest(votes) if not vote.skipped and not vote.is_model]
    return [(a, b) for a, b in combinations(people, 2) if a.by == b.by and same_answers(a, b)]


def with_people(votes: Sequence[Vote], model: str) -> list[VotePair]:
    """Return the votes of a model, each with the first vote of every person on the same answers."""
    by_model = [vote for vote in _first_votes(votes, is_model=True) if vote.by == model]
    people = _first_votes(votes, is_model=False)
    return [(ours, theirs) for ours in by_model for theirs in people if same_answers(ours, theirs)]


def same_answers(one: Vote, other: Vote) -> bool:
    """Return whether two votes are about the same answers to the same question."""
    return one.prompt_id == other.prompt_id and set(one.answers) == set(other.answers)


def _first_votes(votes: Iterable[Vote], *, is_model: bool) -> list[Vote]:
    """Return one vote of each voter on each set of answers, not those on items that were repeated."""
    first: dict[tuple[str, int, frozenset[str]], Vote] = {}
    for vote in latest(votes):
        if vote.is_model == is_model and not vote.skipped:
            first.setdefault((vote.by, vote.prompt_id, frozenset(vote.answers)), vote)
    return list(first.values())


def position_bias(votes: Iterable[Vote]) -> Share | None:
    """Return the share of the pairs whose better answer was shown first; None if nothing was preferred.

    Without a bias it is about one half, because the order is random.
    """
    first = [
        vote.answers.index(pair.chosen) < vote.answers.index(pair.rejected)
        for vote in latest(votes)
        for pair in ranked_pairs(vote)
    ]
    return share(sum(first), len(first)) if first else None


def require_agreement(votes: Sequence[Vote], model: str, min_kappa: float, min_questions: int) -> Agreement:
    """Return how far a model agrees with people, if that is enough to let it vote alone.

    Args:
        votes: All votes.
        model: The name by which the model votes.
        min_kappa: Smallest kappa with people.
        min_questions: Smallest number of questions that the model and a person have ranked.

    Raises:
        InputError: The agreement is too small, or is measured on too few questions; gives the figures.
    """
    measured = agreement(with_people(votes, model))
    if measured is None or measured.questions < min_questions:
        raise InputError(
            f"{model} and people have ranked {measured.questions if measured else 0} questions in common; expected at "
            f"least {min_questions} before {model} may vote alone: rank more with `make rank`"
        )
    if measured.kappa is None or measured.kappa < min_kappa:
        raise InputError(
            f"{model} may not vote alone: {measured}; expected a kappa of at least {min_kappa:g}: take another model, "
            "or state in guideline.txt what people go by"
        )
    return measured


def require_models(votes: Sequence[Vote], min_kappa: float, min_questions: int) -> dict[str, Agreement]:
    """Return how far each model that votes alone agrees with people; raises as `require_agreement` does.

    A model votes alone if one of its votes counts, which is on a question that no person has ranked.
    """
    alone = dict.fromkeys(vote.by for vote in current(votes) if vote.is_model)
    return {model: require_agreement(votes, model, min_kappa, min_questions) for model in alone}
