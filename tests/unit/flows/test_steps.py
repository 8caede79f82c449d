"""What a flow does when the server that shows it, or one that a step needs, is away."""

import httpx
import pytest
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed

from flows.steps import progress, unreachable
from stance.errors import InputError, Unreachable


@pytest.mark.parametrize(
    ("error", "again"),
    [(ConnectionError("reset"), True), (Unreachable("the Hub is busy"), True), (InputError("no token"), False)],
)
def test_only_what_a_server_refused_is_tried_again(error, again):
    assert unreachable(None, None, Failed(data=error)) == again


@pytest.mark.parametrize("error", [httpx.ConnectError("no route"), ObjectNotFound(ValueError("deleted in the UI"))])
def test_a_progress_that_cannot_be_shown_ends_no_training(error, monkeypatch):
    tried: list[float] = []

    def away(**values: float) -> None:
        tried.append(values["progress"])
        raise error

    monkeypatch.setattr("flows.steps.create_progress_artifact", away)
    lines: list[str] = []
    line = progress("train", lines.append)
    for step in (1, 2):
        line(f"step {step}/8 loss 0.69 {8 - step} s left")
    assert len(tried) == 1
    assert [text.split()[0] for text in lines] == ["step", "the", "step"]
    assert lines[1].startswith(f"the progress of train is not shown any more ({type(error).__name__}: ")
