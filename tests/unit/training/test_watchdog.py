"""A training that ruins the model is stopped, what it made is kept, and the reason is written down."""

import math

import pytest

from stance.training.watchdog import alarm


def logged(*fallen: float, margin: float = 0.0, loss: float = 0.7, beta: float = 0.1) -> list[dict[str, float]]:
    """Return steps at which the chosen answers are less likely than in the reference, by so many nats."""
    return [{"loss": loss, "rewards/chosen": -beta * nats, "rewards/margins": margin} for nats in fallen]


def test_a_fall_counts_on_average_over_three_steps():
    assert alarm(logged(0, 0, 1, 45), 0.1, 15, 30) is not None
    assert alarm(logged(0, 0, 1, 44), 0.1, 15, 30) is None  # a mean of 15
    assert alarm(logged(0, 65, 65), 0.1, 15, 30) is None  # too early to tell


def test_a_fall_is_in_nats_whatever_beta_is():
    sentence = "logps/chosen has fallen by 25.0 nats, more than 15"
    assert alarm(logged(0, 25, 25, 25, beta=0.1), 0.1, 15, 30) == sentence
    assert alarm(logged(0, 25, 25, 25, beta=0.5), 0.5, 15, 30) == sentence


def test_batches_of_longer_answers_are_no_fall():
    """A long answer is less likely than a short one in every model, the reference included."""
    steps = [
        {**step, "logps/chosen": logps}
        for step, logps in zip(logged(0, -1, -1, -2), (-7.0, -56.0, -56.0, -56.0), strict=True)
    ]
    assert alarm(steps, 0.1, 15, 30) is None


def test_a_margin_that_explodes_is_an_alarm():
    assert alarm(logged(0, 0, 0, 0, margin=30.5), 0.1, 15, 30) == "the reward margin is 30.5, above 30"
    assert alarm(logged(0, 0, 0, 0, margin=29.5), 0.1, 15, 30) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_no_number_is_one_at_once(value: float):
    assert alarm(logged(0, loss=value), 0.1, 15, 30) == f"loss is {value}"
    assert alarm(logged(0, 0, -value), 0.1, 15, 30) == f"rewards/chosen is {value}"
    assert alarm(logged(0, margin=value), 0.1, 15, 30) == f"rewards/margins is {value}"
