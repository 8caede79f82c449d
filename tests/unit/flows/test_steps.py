"""What a flow does when the server that shows it, or one that a step needs, is away."""

from typing import Any

import httpx
import pytest
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed

from flows.steps import progress, show_devices, unreachable
from flows.sweep import fitting
from stance.errors import InputError, Unreachable
from stance.machine.devices import Device, Lease
from stance.machine.memory import Room


@pytest.mark.parametrize(
    ("error", "again"),
    [(ConnectionError("reset"), True), (Unreachable("the Hub is busy"), True), (InputError("no token"), False)],
)
def test_only_what_a_server_refused_is_tried_again(error, again):
    assert unreachable(None, None, Failed(data=error)) == again


def test_who_holds_which_gpu_is_shown_in_the_log_and_in_the_ui(monkeypatch):
    gpus = [Device(str(number), f"GPU-{number}", Room(0, 0)) for number in range(3)]
    monkeypatch.setattr("stance.machine.devices.visible", lambda: gpus)
    monkeypatch.setattr("stance.machine.devices.holders", lambda _: {"0": "another (merge)", "2": "mine (train)"})
    tables, lines = list[Any](), list[str]()
    monkeypatch.setattr("flows.steps.create_table_artifact", lambda rows, key: tables.append((key, rows)))
    show_devices(Lease((gpus[2],)), lines.append)
    show_devices(Lease(), lines.append)  # a stage that needs none
    holding = {"0": "another (merge)", "1": "", "2": "mine (train)"}
    assert tables == [("devices", [{"GPU": name, "holder": holder} for name, holder in holding.items()])]
    assert lines == ["works on GPU 2"]


@pytest.mark.parametrize(
    ("gpus", "points", "jobs"),
    [
        (4, [{"model.device": "cuda"}], 8),
        (4, [{"model.device": "cuda", "model.devices": 2}], 4),
        (3, [{"model.device": "cuda"}, {"model.device": "cuda", "model.devices": 2}], 2),
        (1, [{"model.device": "cuda"}], 2),
        (1, [{"model.device": "cuda", "model.devices": 2}], 1),
        (4, [{"model.device": "cpu"}], 1),
    ],
)
def test_two_runs_take_turns_on_the_gpus_that_each_needs(gpus, points, jobs, monkeypatch):
    monkeypatch.setattr("flows.sweep.visible", lambda: [None] * gpus)
    assert fitting([point | {"train.optim": "adamw_torch"} for point in points]) == jobs


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
