"""`make sweep MERGE=best` in the miniature: all runs are trained and tried, and one is merged."""

import re
from pathlib import Path

import pytest

from stance.data.metrics import METRICS, Metrics
from stance.data.trial import TRIAL, Trial
from stance.machine.files import read_yaml
from stance.runs.record import Run
from tests.builders.aligned_project import Aligned
from tests.builders.repository import git
from tests.builders.this_project import command

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def project(aligned: Aligned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The aligned project with a grid of two runs: one epoch, and as many as the aligned run has."""
    folder = aligned.copy(tmp_path_factory.mktemp("trials") / "project")
    epochs = read_yaml(folder / "params.yaml")["train"]["num_epoch"]
    (folder / "grids/two.yaml").write_text(f"train.num_epoch: [1, {epochs}]\n", encoding="utf-8")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "a grid")
    return folder


def test_the_best_run_alone_is_merged_and_the_same_command_has_nothing_left_to_do(project, prefect_api):
    swept = command(project, "flows.sweep", "two", "--merge", "best", PREFECT_API_URL=prefect_api)
    assert swept.code == 0, swept.log
    assert swept.log.count("starting the engine for") == 2  # of the trials, and of the best run; the base has answered
    runs = {
        folder.name: (folder, Run.read(folder).state) for folder in (project / ".runs").iterdir() if folder.is_dir()
    }
    [(best, _)] = [run for run in runs.values() if run[1] == "completed"]
    [(other, _)] = [run for run in runs.values() if run[1] == "trained"]
    assert read_yaml(other / "params.yaml")["train"]["num_epoch"] == 1
    assert (best / "data/merged").is_dir()
    assert not (other / "data/merged").exists()

    trials = {folder: Trial.read(folder) for folder in (best, other)}
    assert trials[best].merit > trials[other].merit
    assert trials[best].merged is not None
    assert trials[best].within
    metrics = Metrics.read(best / METRICS)
    assert trials[best].adherence.share == pytest.approx(metrics.adherence.share, abs=0.05)
    page = (project / "data/compare/two/index.md").read_text("utf-8")
    assert f"| {other.name} (adapter) |" in page
    assert re.search(rf"The merged model of {best.name} is \S+ nats per token from the adapter that was tried", page)

    written = (other / TRIAL).stat().st_mtime_ns
    again = command(project, "flows.sweep", "two", "--merge", "best", PREFECT_API_URL=prefect_api)
    assert again.code == 0, again.log
    assert "starting the engine" not in again.log
    assert (other / TRIAL).stat().st_mtime_ns == written
    assert Run.read(best).tries == 1


def test_a_run_that_was_tried_is_no_run_to_release_or_to_serve(project):
    [other] = [
        folder for folder in (project / ".runs").iterdir() if folder.is_dir() and Run.read(folder).state == "trained"
    ]
    refused = command(project, "stance", "serve", "--run", other.name)
    assert refused.code == 1
    assert f"{other.name} is trained; expected a completed run" in refused.log
