"""How good a reward model is: accuracy, length bias, position bias, and agreement with other judges of the answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from stance.data.comparisons import Answer, Comparison, Scored, answers_of, compared
from stance.data.metrics import Share
from stance.data.rewards import RewardQuality, VoterAgreement
from stance.evaluation.intervals import share


class AnswerValues(NamedTuple):
    """What is known about one answer."""

    reward: float
    tokens: int
    """Tokens of the question and the answer together."""
    stance: float
    """The stance judge's score, P(support) - P(oppose)."""


Values = Mapping[Answer, AnswerValues]


def quality_of(
    source: Literal["preferences", "votes", "scores"],
    train: Sequence[Comparison | Scored],
    held_out: Sequence[Comparison | Scored],
    values: Values,
    losses: Sequence[float],
    difference: float,
    voters: Mapping[str, VoterAgreement],
) -> RewardQuality:
    """Return the record of a reward model.

    Args:
        source: What it learned from.
        train: The rows that it was trained on.
        held_out: The rows about other questions.
        values: The values of every answer in both.
        losses: The loss of each step.
        difference: Largest difference between the rewards of the trained and of the saved model.
        voters: How far the models that vote alone agree with people.
    """
    pairs, others = comparisons(held_out), comparisons(train)
    answers = [values[answer] for answer in answers_of(held_out)]
    rewards = [answer.reward for answer in answers]
    scored = [row for row in held_out if isinstance(row, Scored)]
    longer_chosen, longer_rewarded = longer_shares(pairs, values)
    return RewardQuality(
        source=source,
        voters=dict(voters),
        trained_on=len(train),
        questions=len({row.id for row in train}),
        held_out_questions=len({row.id for row in held_out}),
        first_loss=losses[0],
        last_loss=losses[-1],
        reload_difference=difference,
        accuracy=pair_accuracy(pairs, values),
        training_accuracy=pair_accuracy(others, values),
        length_correlation=correlation(rewards, [answer.tokens for answer in answers]),
        longer_chosen=longer_chosen,
        longer_rewarded=longer_rewarded,
        first_chosen=first_share([*others, *pairs]),
        stance_correlation=correlation(rewards, [answer.stance for answer in answers]),
        score_correlation=correlation(
            [values[row.id, row.answer].reward for row in scored], [row.score for row in scored]
        ),
    )


def comparisons(rows: Sequence[Comparison | Scored]) -> list[Comparison]:
    """Return rows as comparisons; scores as one for every two answers to a question with different scores."""
    scored = [row for row in rows if isinstance(row, Scored)]
    return [*(row for row in rows if isinstance(row, Comparison)), *compared(scored)]


def share_of(cases: Iterable[bool]) -> Share | None:
    """Return the share of the cases that are true; None if there are none."""
    listed = list(cases)
    return share(sum(listed), len(listed)) if listed else None


def pair_accuracy(rows: Iterable[Comparison], values: Values) -> Share | None:
    """Return the share of comparisons whose preferred answer has the higher reward. A tie counts as wrong."""
    both = [_both(row, values) for row in rows]
    return share_of(chosen.reward > rejected.reward for chosen, rejected in both)


def longer_shares(rows: Iterable[Comparison], values: Values) -> tuple[Share | None, Share | None]:
    """Return the share of comparisons whose longer answer is preferred, and whose longer answer has the higher reward.

    Comparisons of two answers of one length do not count, and in the second share those of one reward do not.
    """
    both = [_both(row, values) for row in rows]
    leads = [(chosen.tokens - rejected.tokens, chosen.reward - rejected.reward) for chosen, rejected in both]
    unequal = [(longer, gap) for longer, gap in leads if longer]
    chosen = share_of(longer > 0 for longer, _ in unequal)
    return chosen, share_of((gap > 0) == (longer > 0) for longer, gap in unequal if gap)


def _both(row: Comparison, values: Values) -> tuple[AnswerValues, AnswerValues]:
    return values[row.id, row.chosen], values[row.id, row.rejected]


def first_share(rows: Iterable[Comparison]) -> Share | None:
    """Return the share of comparisons whose preferred answer was shown first, of those that were shown in an order."""
    return share_of(row.chosen_first for row in rows if row.chosen_first is not None)


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's correlation of two lists of values; None if it is undefined.

    It is undefined for fewer than three values, and where all values of a list are the same.
    """
    from scipy.stats import spearmanr  # a second of imports

    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(spearmanr(first, second).statistic)
