"""A grid of runs in a project of seconds, with Prefect's own temporary server: made once, taken up again, compared."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.compare import Row, changes, compare, marked, response_curves
from flows.sweep import named, points
from flows.workspace import RECORD, Run
from tasks.errors import InputError
from tests.prefect_ui import gone, working_in
from tests.repository import git
from tests.toy_project import enter, make

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GRID = """\
- {pairs.support_ratio: [0, 1], train.num_epoch: [1]}
- {pairs.support_ratio: [1], train.num_epoch: [1], seed: [13]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = make(tmp_path_factory.mktemp("toy") / "project")
    (project / "grids/tiny.yaml").write_text(GRID)
    (project / "grids/slow.yaml").write_text("train.num_epoch: [2, 20]\n")
    (project / "grids/curve.yaml").write_text("pairs.support_ratio: [0, 0.5, 1]\n")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "grids")
    return project


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(made, tmp_path, monkeypatch)


def start(project: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PREFECT_HOME": str(project.parent / "prefect"), "PREFECT_API_URL": ""}
    command = [sys.executable, "-m", "flows.sweep", *arguments]
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def sweep(project: Path, *arguments: str) -> tuple[int, str]:
    process = start(project, *arguments)
    printed, _ = process.communicate(timeout=300)
    return process.returncode, printed


def records(project: Path) -> dict[str, Run]:
    return {path.parents[2].name: Run.read(path.parents[2]) for path in project.glob(f".runs/*/{RECORD}")}


def test_the_course_grid_is_the_three_questions_of_its_report():
    keys = ("train.num_epoch", "pairs.data_size", "pairs.support_ratio")
    found = [tuple(point[key] for key in keys) for point in points("course")]
    assert found == [(3, 50, 0), (3, 50, 1), (1, 50, 1), (3, 10, 1)]


@pytest.mark.parametrize("grid", ["course", "response-curve", "follow-up", "seeds", "folds"])
def test_every_grid_holds_runs_that_could_start(grid):
    assert len(points(grid)) >= 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pairs.support_ratio: 1\n", "is no grid"),
        ("- 5\n", "is no grid"),
        ("pairs.support_ratio: [2]\n", "support_ratio: input should be less than or equal to 1"),
        ("train.bata: [1]\n", "train.bata: there is no such parameter"),
    ],
)
def test_a_grid_that_cannot_run_is_refused_before_anything_runs(project, text, reason):
    (project / "grids/wrong.yaml").write_text(text)
    with pytest.raises(InputError, match=reason):
        points("wrong")


def test_an_unknown_grid_is_refused_with_those_that_there_are(project):
    code, printed = sweep(project, "coarse")
    assert code == 1
    assert printed.startswith("error: there is no grid 'coarse'; expected one of course, curve, follow-up")
    assert "Traceback" not in printed


def test_a_run_that_fails_stops_no_other_and_only_it_is_tried_again(project):
    code, printed = sweep(project, "tiny", "--jobs", "2")
    assert code == 1
    assert "\nerror: 1 of 3 runs failed" in printed
    first = records(project)
    assert sorted(run.state for run in first.values()) == ["completed", "completed", "failed"]
    text = (project / "data/compare/tiny/index.md").read_text("utf-8")
    assert re.search(r"\* tiny-\w{8}: stage train failed: seed 13 brings bad luck .*run\.log\)", text)
    [failed] = [name for name, run in first.items() if run.state == "failed"]
    assert "seed 13 brings bad luck" in (project / ".runs" / failed / ".dvc/tmp/run.log").read_text("utf-8")
    assert git(project, "status", "--porcelain") == ""
    _, again = sweep(project, "tiny")
    assert "2 of the 3 runs of tiny are complete already" in again
    second = records(project)
    assert {name for name in first if first[name].pid != second[name].pid} == {failed}


def test_a_sweep_that_was_killed_repeats_no_finished_run(project):
    process = start(project, "slow")
    quick, lasting = (named("slow", point) for point in points("slow"))
    until = time.monotonic() + 200
    while not (project / ".runs" / lasting / "checkpoint").exists():
        assert time.monotonic() < until
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)  # with Prefect's temporary server, which else stays
    process.communicate()
    gone(working_in(project / ".runs" / lasting))
    before = records(project)
    assert (before[quick].state, before[lasting].state) == ("completed", "running")
    (project / "grids/slow.yaml").write_text("train.num_epoch: [2, 20]\n")
    code, printed = sweep(project, "slow")
    assert code == 0
    assert "1 of the 2 runs of slow are complete already" in printed
    after = records(project)
    assert after[quick] == before[quick]
    assert after[lasting].state == "completed"
    assert after[lasting].stages["pairs"] == "unchanged"


def test_a_curve_is_drawn_over_the_one_parameter_and_the_page_is_whole(project):
    code, printed = sweep(project, "curve", "--jobs", "2")
    assert code == 0, printed
    page = (project / "data/compare/curve/index.html").read_text("utf-8")
    assert 'aria-label="support from 0 to 1, pairs.support_ratio 0 to 1"' in page
    assert 'aria-label="margin from −2 to 2, pairs.support_ratio 0 to 1"' in page
    assert page.count("pairs.support_ratio: ") == 3  # each two runs differ in it
    assert page.count("data/report/index.html") == 3
    assert all((project / "data/compare/curve" / link).is_file() for link in re.findall(r'href="(\.\./[^"]+)"', page))


def test_a_workspace_removed_by_hand_is_a_row_that_says_so(project):
    page = compare("tiny", {"tiny-12345678": {"seed": 1}})
    assert "missing: its workspace was removed; sweep again" in page.read_text("utf-8")
    assert "* tiny-12345678: its workspace was removed" in (page.parent / "index.md").read_text("utf-8")


def test_only_runs_that_differ_in_one_parameter_are_set_against_each_other():
    metrics = {
        "aligned": {"support": 1.0, "neutral": 0.0, "oppose": 0.0},
        "adherence": {"stance": None},
        "margin": {"trained": {"aligned": 1.0}, "held_out": None},
        "rewards": {"trained": {"share": 1.0, "low": 0.5, "high": 1.0}, "held_out": None},
        "defects": {"aligned": {"degenerate": 0.0, "hedged": 0.0}},
        "characters": {"aligned": 10.0},
    }
    rows = [
        Row(f"run-{a}{b}", {"a": a, "b": b}, "completed", None, Path(), {}, metrics, (-1.0, -2.0))
        for a, b in ((0, 0), (0, 1), (1, 1))
    ]
    assert [(change.parameter, change.names) for change in changes(rows)] == [
        ("b", ("run-00", "run-01")),
        ("a", ("run-01", "run-11")),
    ]
    assert response_curves(rows) == []


def test_what_differs_from_the_first_answer_is_marked_and_escaped():
    assert marked("真人版更好。", "真人版<更>差。") == "真人版<mark>&lt;</mark>更<mark>&gt;差</mark>。"


@pytest.mark.browser
@pytest.mark.parametrize("width", [1300, 390])
def test_a_browser_shows_the_comparison_without_scrolling_sideways(project, width):
    from playwright.sync_api import sync_playwright

    page = compare("tiny", {f"tiny-{number}": {"train.learning_rate": 0.1, "seed": number} for number in range(4)})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": width, "height": 800})
        opened.goto(page.resolve().as_uri())
        assert opened.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        browser.close()
