"""Shares corrected for a classifier's errors, against examples worked out by hand."""

import numpy as np
import pytest

from stance.evaluation.accuracy import accuracy_of
from stance.evaluation.classifier import STANCES, Verdict
from stance.evaluation.correction import corrected_shares, nearest_shares, true_shares


def verdicts(oppose, neutral, support):
    names = ["oppose"] * oppose + ["neutral"] * neutral + ["support"] * support
    return [Verdict(name, 0.0) for name in names]


def measured(confusion):
    """Return the accuracy of a classifier from counts; rows are true stances, both in the order of STANCES."""
    pairs = [
        (true, found)
        for true, row in zip(STANCES, confusion, strict=True)
        for found, count in zip(STANCES, row, strict=True)
        for _ in range(count)
    ]
    return accuracy_of("wording", None, pairs)


CONFUSION = [[90, 10, 0], [5, 90, 5], [0, 20, 80]]


def test_the_true_shares_are_found_again_from_what_the_classifier_makes_of_them():
    """Of 40 % oppose, 10 % neutral, 50 % support: .4*.9+.1*.05=.365, .4*.1+.1*.9+.5*.2=.23, .1*.05+.5*.8=.405."""
    found = true_shares(np.array(CONFUSION) / 100, np.array([0.365, 0.23, 0.405]))
    assert found == pytest.approx([0.4, 0.1, 0.5])


def test_two_classes_are_rogan_and_gladens_estimator():
    """Sensitivity 0.9, specificity 0.8, 41 % found: (0.41 + 0.8 - 1) / (0.9 + 0.8 - 1) = 0.3."""
    found = true_shares(np.array([[0.8, 0.2], [0.1, 0.9]]), np.array([0.59, 0.41]))
    assert found == pytest.approx([0.7, 0.3])


def test_the_interval_holds_the_share_and_shrinks_with_both_samples():
    few, many = [[9, 1, 0], [1, 8, 1], [0, 2, 8]], [[900, 100, 0], [100, 800, 100], [0, 200, 800]]
    sizes = []
    for confusion, times in ((few, 1), (few, 50), (many, 1), (many, 50)):
        share = corrected_shares(verdicts(7 * times, 6 * times, 7 * times), measured(confusion)).oppose
        assert 0 <= share.low <= share.share <= share.high <= 1
        sizes.append(share.high - share.low)
    assert sizes[3] < sizes[1] < sizes[0]
    assert sizes[3] < sizes[2] < sizes[0]


def test_a_classifier_without_an_error_corrects_nothing_and_leaves_room_for_doubt():
    shares = corrected_shares(verdicts(0, 2, 18), measured([[20, 0, 0], [0, 20, 0], [0, 0, 20]]))
    assert (shares.oppose.share, shares.neutral.share, shares.support.share) == pytest.approx((0.0, 0.1, 0.9))
    assert shares.support.low < 0.8
    assert shares.oppose.high > 0.02


def test_a_stance_that_was_never_measured_leaves_no_correction():
    assert corrected_shares(verdicts(1, 1, 1), measured([[9, 0, 1], [0, 0, 0], [1, 0, 9]])) is None


def test_the_correction_is_the_same_twice():
    assert corrected_shares(verdicts(3, 4, 13), measured(CONFUSION)) == corrected_shares(
        verdicts(3, 4, 13), measured(CONFUSION)
    )


@pytest.mark.parametrize(
    ("values", "shares"),
    [([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]), ([1.2, -0.2, 0.0], [1.0, 0.0, 0.0]), ([0.7, 0.5, -0.2], [0.6, 0.4, 0.0])],
)
def test_shares_beyond_the_ends_become_the_nearest_ones_that_can_be(values, shares):
    """Of 0.7, 0.5, -0.2: the negative one is cut off, and 0.2 too much is taken in halves from the others."""
    assert nearest_shares(np.array(values)) == pytest.approx(shares)
