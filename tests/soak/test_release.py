"""Releases that are cancelled at random moments, under the real server: all is as it was before."""

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from stance.machine.files import read_json
from stance.machine.ports import free_port
from stance.runs.provenance import release_id
from tests.builders.prefect_ui import FINAL, Ui, processes_of, working_in
from tests.builders.toy_project import dvc
from tests.services.test_release_whole import endpoint, launch, typed
from tests.soak.test_runs import clone, complete, note

pytestmark = pytest.mark.timeout(3600)

CANCELS = int(os.environ.get("CANCELS", "20"))
ALLOWED = 15
"""Seconds after a cancel until nothing of the release is left."""


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    project = clone(tmp_path_factory.mktemp("soak-release"))
    dvc(project, "repro", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVE_PORT", str(free_port()))
        running = Ui(project)
        yield running
        running.stop()
        typed(running, "stance serve", "stop")
    assert working_in(project) == []


def standing(ui: Ui) -> tuple[str, str, dict[str, str]]:
    """Return the release that answers, the one that is held, and the sizes and times of the held files."""
    held = ui.project / "data/release"
    files = {
        str(path.relative_to(held)): f"{path.stat().st_size} {path.stat().st_mtime_ns}" for path in held.rglob("*.*")
    }
    return endpoint(ui)["release"], read_json(held / "release.json")["release"], files


def release(ui: Ui, name: str) -> float:
    """Release a run, and return the seconds that it took."""
    began = time.monotonic()
    run = launch(ui, run=name)
    assert ui.wait(run, FINAL, within=600) == "COMPLETED"
    return time.monotonic() - began


def cancelled(ui: Ui, name: str, after: float) -> dict[str, Any]:
    """Cancel the release of a run after some seconds, and return how it ended."""
    run = launch(ui, run=name)
    ui.wait(run, {"RUNNING", *FINAL})
    time.sleep(after)
    ui.cancel(run)
    began = time.monotonic()
    while left := processes_of(run):
        assert time.monotonic() - began < ALLOWED, [psutil.Process(pid).cmdline() for pid in left]
        time.sleep(0.1)
    seconds = time.monotonic() - began
    return {"after": round(after, 1), "seconds": round(seconds, 1), "state": ui.wait(run, FINAL)}


def test_cancels_at_random_moments_of_a_release_leave_what_was_released(ui: Ui):
    names = [str(complete(ui, beta=beta)["name"]) for beta in (0.11, 0.12)]
    release(ui, names[0])
    usual = release(ui, names[1])
    draw, rows = random.Random(16), []
    while len(rows) < CANCELS:
        before = standing(ui)
        row = cancelled(ui, names[0], draw.uniform(0, usual))
        if row["state"] == "COMPLETED":  # it was quicker
            release(ui, names[1])
            continue
        rows.append(row)
        assert standing(ui) == before, row
        assert not (ui.project / "data/release.before").exists(), row
    note("release-cancels", {"seconds of a release": round(usual, 1), "cancels": rows})
    release(ui, names[0])
    assert standing(ui)[:2] == (release_id(ui.project / ".runs" / names[0]),) * 2
