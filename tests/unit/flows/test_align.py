"""What the record of a run says while the run goes on."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.states import Completed

from flows import align
from stance.runs import catalogue
from stance.runs.record import Run

STAGES = ["dataset", "base", "pairs"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The workspace of a run, two stages of which an earlier try has made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(align, "flow_run", SimpleNamespace(run_count=2))
    monkeypatch.setattr(align, "get_run_logger", logging.getLogger)
    monkeypatch.setattr(align.stages, "names", lambda folder: STAGES)
    monkeypatch.setattr(align.stages, "remote", lambda folder: None)
    monkeypatch.setattr(align.workspace, "clean_up", lambda folder: None)
    for name in ("check", "create_markdown_artifact", "show"):
        monkeypatch.setattr(align, name, lambda *_, **__: None)
    folder = Path(".runs/one")
    earlier = {"dataset": "ran: no record of it", "base": "failed: no network"}
    Run(name="one", commit="c" * 40, snapshot="c" * 40, created=datetime.now(UTC), stages=earlier).write(folder)
    return folder


def outcomes() -> dict[str, str]:
    """Return what the table of the run shows."""
    stages, outcomes = catalogue.show("one").columns
    return dict(zip(stages.cells, outcomes.cells, strict=True))


def test_a_run_that_goes_on_shows_the_stages_of_this_try_that_have_ended(folder, monkeypatch):
    shown, saved = {}, []

    def reproduce(stage, folder, minutes):
        shown[stage] = (outcomes(), Run.read(folder).state, dict(Run.read(folder).memory))
        return (
            Completed(message="ran: seed 1 → 2", data=(100, 0)) if stage == "base" else Completed(message="unchanged")
        )

    monkeypatch.setattr(align, "reproduce", reproduce)
    monkeypatch.setattr(align.workspace, "save", lambda run, folder: saved.append(run.stages))
    align.in_workspace(folder)
    assert shown == {
        "dataset": ({}, "running", {}),
        "base": ({"dataset": "unchanged"}, "running", {}),
        "pairs": ({"dataset": "unchanged", "base": "ran: seed 1 → 2"}, "running", {"base": 100}),
    }
    whole = {"dataset": "unchanged", "base": "ran: seed 1 → 2", "pairs": "unchanged"}
    assert (outcomes(), Run.read(folder).state, saved) == (whole, "completed", [whole])


def test_a_run_that_fails_has_the_stages_until_then(folder, monkeypatch):
    def reproduce(stage, folder, minutes):
        if stage == "base":
            raise RuntimeError("no memory")
        return Completed(message="unchanged")

    saved = []
    monkeypatch.setattr(align, "reproduce", reproduce)
    monkeypatch.setattr(align.workspace, "save", lambda run, folder: saved.append(run.finished))
    with pytest.raises(RuntimeError, match="no memory"):
        align.in_workspace(folder)
    assert (outcomes(), Run.read(folder).state) == ({"dataset": "unchanged", "base": "failed: no memory"}, "failed")
    assert saved == [["dataset"]]
