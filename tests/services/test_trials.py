"""`make sweep MERGE=best` in the miniature: all runs are trained and tried, and one is merged."""

from pathlib import Path
from typing import NamedTuple

import pytest

from stance.data.metrics import METRICS, Metrics
from stance.data.trial import TRIAL, Trial
from stance.machine.files import read_yaml
from stance.runs.record import RECORD, Run
from tests.builders.aligned_project import Aligned
from tests.builders.pages import Page
from tests.builders.repository import git
from tests.builders.this_project import command

pytestmark = pytest.mark.timeout(900)


class Swept(NamedTuple):
    """The project, the workspaces of its runs, and what the sweep printed."""

    project: Path
    best: Path
    other: Path
    log: str


@pytest.fixture(scope="module")
def swept(aligned: Aligned, tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Swept:
    """A grid of two runs was swept: one epoch, and as many as the aligned run has."""
    project = aligned.copy(tmp_path_factory.mktemp("trials") / "project")
    epochs = read_yaml(project / "params.yaml")["train"]["num_epoch"]
    (project / "grids/two.yaml").write_text(f"train.num_epoch: [1, {epochs}]\n", encoding="utf-8")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "a grid")
    done = command(project, "flows.sweep", "two", "--merge", "best", PREFECT_API_URL=prefect_api)
    assert done.code == 0, done.log
    by_state = {Run.read(folder).state: folder for folder in (project / ".runs").iterdir() if folder.is_dir()}
    assert by_state.keys() == {"completed", "trained"}
    return Swept(project, by_state["completed"], by_state["trained"], done.log)


def test_the_best_run_alone_is_merged_after_both_were_tried_in_one_engine(swept):
    assert swept.log.count("starting the engine for") == 1  # the base and the best run have answered before
    assert swept.log.count("adapter 2 of 2") == 1
    assert read_yaml(swept.other / "params.yaml")["train"]["num_epoch"] == 1
    assert (swept.best / "data/merged").is_dir()
    assert not (swept.other / "data/merged").exists()
    best, other = Trial.read(swept.best), Trial.read(swept.other)
    assert best.merit > other.merit
    assert best.merged is not None
    assert best.within
    assert other.merged is None
    metrics = Metrics.read(swept.best / METRICS)
    assert best.adherence.share == pytest.approx(metrics.adherence.share, abs=0.05)


def test_the_page_shows_what_the_adapter_of_the_other_run_did_and_links_it_to_no_report(swept):
    page = (swept.project / "data/compare/two/index.html").read_text("utf-8")
    shown = " ".join(Page(page).shown.split())
    assert f"{swept.other.name} (adapter)" in shown
    assert f"The merged model of {swept.best.name} differs from the adapter that was tried by" in shown
    assert f".runs/{swept.best.name}/data/report" in page
    assert f".runs/{swept.other.name}/data/report" not in page
    assert (swept.other / "data/report/index.html").exists()  # that of the commit


def test_a_tried_run_has_no_figures_and_is_none_to_serve(swept):
    compared = command(swept.project, "stance", "runs", "compare", swept.best.name, swept.other.name)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in compared.log.splitlines() if "│" in line]
    assert ["train.num_epoch", "3", "1"] in rows
    [adherence] = [row for row in rows if row[0] == "adherence.share"]
    assert adherence[1:] == ["1", ""]
    refused = command(swept.project, "stance", "serve", "--run", swept.other.name)
    assert refused.code == 1
    assert f"{swept.other.name} is trained; expected a completed run" in refused.log


def test_the_same_command_has_nothing_left_to_do(swept, prefect_api):
    files = [swept.best / RECORD, swept.other / RECORD, swept.other / TRIAL]
    before = [path.stat().st_mtime_ns for path in files]
    again = command(swept.project, "flows.sweep", "two", "--merge", "best", PREFECT_API_URL=prefect_api)
    assert again.code == 0, again.log
    assert "starting the engine" not in again.log
    assert [path.stat().st_mtime_ns for path in files] == before
