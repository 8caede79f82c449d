"""Figures of a reward model, on values worked out by hand."""

import pytest

from stance.data.comparisons import Comparison, Scored
from stance.data.rewards import RewardQuality
from stance.evaluation.reward_model import (
    AnswerValues,
    correlation,
    first_share,
    longer_shares,
    pair_accuracy,
    quality_of,
)

PROMPT = [{"role": "user", "content": "?"}]


def compare(chosen: str, rejected: str, ident: int = 1, chosen_first: bool | None = None) -> Comparison:
    return Comparison(ident, PROMPT, chosen, rejected, 1, chosen_first)


VALUES = {
    (1, "a"): AnswerValues(3.0, 10, 0.9),
    (1, "b"): AnswerValues(1.0, 10, 0.1),
    (1, "c"): AnswerValues(1.0, 12, -0.5),
    (1, "d"): AnswerValues(-1.0, 15, -0.9),
}


def test_accuracy_counts_a_tie_as_wrong():
    """a over b is right, b over c is a tie, d over a is wrong, a over d is right."""
    rows = [compare("a", "b"), compare("b", "c"), compare("d", "a"), compare("a", "d")]
    found = pair_accuracy(rows, VALUES)
    assert (found.count, found.total) == (2, 4)
    assert pair_accuracy([], VALUES) is None


def test_length_bias_compares_what_people_and_the_model_prefer():
    """Of four pairs one has answers of one length. The longer answer is chosen in one of three; by reward, of the two
    that differ in it, in none.
    """
    rows = [compare("a", "b"), compare("d", "a"), compare("a", "c"), compare("b", "c")]
    chosen, rewarded = longer_shares(rows, VALUES)
    assert (chosen.count, chosen.total) == (1, 3)
    assert (rewarded.count, rewarded.total) == (0, 2)


def test_position_bias_counts_pairs_that_were_shown():
    rows = [compare("a", "b", chosen_first=True), compare("a", "c", chosen_first=False), compare("a", "d")]
    assert first_share(rows).share == 0.5
    assert first_share(rows[2:]) is None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 900], 1.0),  # by rank alone
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 2, 4, 3], 0.8),  # 1 - 6 x 2 / (4 x 15)
        ([1, 2], [1, 2], None),
        ([1, 1, 1], [1, 2, 3], None),
        ([1, 2, 3], [5, 5, 5], None),
    ],
)
def test_correlation_is_of_ranks_and_undefined_where_it_says_nothing(first, second, expected):
    assert correlation(first, second) == (None if expected is None else pytest.approx(expected))


def test_the_record_is_about_the_questions_that_were_held_out(tmp_path):
    train = [compare("a", "b", 2), compare("b", "a", 3)]
    values = VALUES | {(ident, name): VALUES[1, name] for ident in (2, 3) for name in "ab"}
    held_out = [compare("a", "d"), compare("b", "d")]
    quality = quality_of("votes", train, held_out, values, [0.7, 0.2], 0.0, {})
    assert (quality.trained_on, quality.questions, quality.held_out_questions) == (2, 2, 1)
    assert (quality.first_loss, quality.last_loss) == (0.7, 0.2)
    assert (quality.accuracy.count, quality.accuracy.total) == (2, 2)
    assert (quality.training_accuracy.count, quality.training_accuracy.total) == (1, 2)
    assert quality.stance_correlation == pytest.approx(1)  # a, b, d: rewards 3, 1, -1 and scores 0.9, 0.1, -0.9
    assert quality.score_correlation is None
    quality.write(tmp_path / "quality.json")
    assert RewardQuality.read(tmp_path / "quality.json") == quality


def test_scores_are_compared_within_a_question():
    """Of question 1, a over b and a over d are right, and b over d too; question 2 has one answer and no pair."""
    held_out = [Scored(1, PROMPT, "a", 1.0), Scored(1, PROMPT, "b", 0.5), Scored(1, PROMPT, "d", -1.0)]
    held_out += [Scored(2, PROMPT, "c", 0.0)]
    values = VALUES | {(2, "c"): AnswerValues(0.0, 12, 0.0)}
    quality = quality_of("scores", [Scored(3, PROMPT, "a", 1.0)], held_out, values, [1.0], 0.0, {})
    assert (quality.accuracy.count, quality.accuracy.total) == (3, 3)
    assert quality.training_accuracy is None
    assert quality.score_correlation == pytest.approx(1)  # scores 1, 0.5, 0, -1 and rewards 3, 1, 0, -1
