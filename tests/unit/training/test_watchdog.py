"""A training that ruins the model is stopped, what it made is kept, and the reason is written down."""

import math

import pytest

from stance.training.watchdog import alarm


def logged(*chosen: float, margin: float = 0.0, loss: float = 0.7) -> list[dict[str, float]]:
    return [{"loss": loss, "logps/chosen": value, "rewards/margins": margin} for value in chosen]


def test_a_fall_counts_on_average_over_three_steps():
    """From -5 a bound of 15 is reached at a mean of -20."""
    assert alarm(logged(-5, -5, -6, -70), 15, 30) is not None
    assert alarm(logged(-5, -5, -6, -49), 15, 30) is None  # a mean of -20 is a fall of 15
    assert alarm(logged(-5, -70, -70), 15, 30) is None  # too early to tell


def test_a_fall_says_by_how_much():
    assert alarm(logged(-5, -30, -30, -30), 15, 30) == "logps/chosen has fallen by 25.0 nats, more than 15"


def test_a_margin_that_explodes_is_an_alarm():
    assert alarm(logged(-5, -5, -5, -5, margin=30.5), 15, 30) == "the reward margin is 30.5, above 30"
    assert alarm(logged(-5, -5, -5, -5, margin=29.5), 15, 30) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_no_number_is_one_at_once(value: float):
    assert alarm(logged(-5, loss=value), 15, 30) == f"loss is {value}"
    assert alarm(logged(-5, -5, value), 15, 30) == f"logps/chosen is {value}"
    assert alarm(logged(-5, margin=value), 15, 30) == f"rewards/margins is {value}"
