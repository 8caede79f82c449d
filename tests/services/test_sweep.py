"""A grid of runs in a project of seconds: made once, taken up again after failures and kills, compared."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.sweep import main, named, planned, points
from stance import errors
from stance.errors import InputError
from stance.runs.record import RECORD, Run
from tests.builders.pages import Page
from tests.builders.prefect_ui import gone, working_in
from tests.builders.repository import git
from tests.builders.toy_project import enter, training_held

READY = sorted(Path("grids").glob("*.yaml"))

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def project(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(toy, tmp_path, monkeypatch)


def start(project: Path, *arguments: str, api: str = "") -> "subprocess.Popen[str]":
    """Start a sweep with the Prefect server at an address, or with one of its own."""
    environment = {**os.environ, "PREFECT_HOME": str(project.parent / "prefect"), "PREFECT_API_URL": api}
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


@pytest.fixture(scope="module")
def sweep(prefect_api: str) -> Callable[..., tuple[int, str]]:
    """Sweep to the end; returns the exit code and what was printed."""

    def run(project: Path, *arguments: str) -> tuple[int, str]:
        process = start(project, *arguments, api=prefect_api)
        printed, _ = process.communicate(timeout=300)
        return process.returncode, printed

    return run


def records(project: Path) -> dict[str, Run]:
    return {path.parents[2].name: Run.read(path.parents[2]) for path in project.glob(f".runs/*/{RECORD}")}


def servers_of(pid: int) -> list[int]:
    """Return the Prefect server that a process has started, and the guard of that."""
    below = psutil.Process(pid).children(recursive=True)
    return [process.pid for process in below if "prefect server start" in " ".join(process.cmdline()[1:])]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_the_course_grid_is_the_three_questions_of_its_report():
    keys = ("train.num_epoch", "pairs.data_size", "pairs.support_ratio")
    found = [tuple(point[key] for key in keys) for point in points("course")]
    assert found == [(3, 50, 0), (3, 50, 1), (1, 50, 1), (3, 10, 1)]


def test_the_grids_that_the_readme_names_are_there():
    named_there = set(re.findall(r"GRID=([a-z-]+)", Path("README.md").read_text("utf-8")))
    assert {"course", "response-curve"} <= named_there <= {path.stem for path in READY}


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_every_grid_holds_runs_that_could_start_and_no_run_twice(path):
    found = points(path.stem)
    assert len(found) >= 2
    assert all(point not in found[:number] for number, point in enumerate(found))


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


@pytest.mark.parametrize(
    ("path", "named_as"),
    [
        ("params.yaml", "params.yaml is"),
        ("dvc.yaml", "dvc.yaml is"),
        ("tasks/pairs.py", "tasks/pairs.py is"),
        ("stance/runs/stages.py", "stance/runs/stages.py is"),
        ("data/sources/一 二/labelled_data.json", "data/sources/一 二/ is"),
    ],
)
def test_an_edit_that_the_runs_would_not_see_is_named_and_refused(project, path, named_as):
    for file in (project / path, project / "grids/curve.yaml"):
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as opened:
            opened.write("\n# edited\n")
    with pytest.raises(InputError, match=rf"^{named_as} edited and the runs of a grid start from the last commit"):
        planned("curve")
    git(project, "add", "--all")
    with pytest.raises(InputError, match="start from the last commit"):
        planned("curve")
    git(project, "commit", "--quiet", "--message", "edit")
    assert len(planned("curve")) == 3


def test_an_edit_to_a_grid_is_none_to_its_runs(project):
    (project / "grids/curve.yaml").write_text("pairs.support_ratio: [0.2, 0.4]\n")
    assert [point["pairs.support_ratio"] for point in planned("curve").values()] == [0.2, 0.4]


def refusal(grid: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a sweep prints that is refused before it needs a server."""
    monkeypatch.setattr(sys, "argv", ["sweep", grid])
    with pytest.raises(SystemExit) as ended:
        errors.run(main)
    assert ended.value.code == 1
    out, error = capsys.readouterr()
    assert out == ""
    return error


def test_a_sweep_after_another_profile_was_chosen_makes_no_run_of_the_one_before(project, monkeypatch, capsys):
    write(project / "params.yaml", Path("profiles/breeze-7b.yaml").read_text("utf-8"))
    (project / "tasks/new.py").touch()
    assert refusal("curve", monkeypatch, capsys) == (
        "error: params.yaml, tasks/new.py are edited and the runs of a grid start from the last commit; commit or "
        "stash the edits first\n"
    )
    assert records(project) == {}


def test_an_unknown_grid_is_refused_with_those_that_there_are(project, monkeypatch, capsys):
    printed = refusal("coarse", monkeypatch, capsys)
    assert printed.startswith(
        "error: there is no grid 'coarse'; expected one of ai-art, course, curve, folds, follow-up"
    )
    assert "Traceback" not in printed


def test_a_killed_sweep_repeats_no_finished_run_and_a_run_that_fails_stops_no_other(project, sweep):
    quick, lasting, failing = (named("tiny", point) for point in points("tiny"))
    with training_held(project, 20):
        process = start(project, "tiny")
        until = time.monotonic() + 200
        while not (project / ".runs" / lasting / "checkpoint").exists():
            assert time.monotonic() < until
            time.sleep(0.2)
        servers = servers_of(process.pid)
        assert servers
        process.kill()
        process.communicate()
        gone([*servers, *(pid for pid in working_in(project) if pid != os.getpid())])
    killed = records(project)
    assert {name: run.state for name, run in killed.items()} == {quick: "completed", lasting: "running"}

    code, printed = sweep(project, "tiny", "--jobs", "2")
    assert code == 1
    assert "1 of the 3 runs of tiny are complete already" in printed
    assert "\nerror: 1 of 3 runs failed" in printed
    first = records(project)
    assert first[quick] == killed[quick]
    assert first[lasting].stages["pairs"] == "unchanged"
    assert {name: run.state for name, run in first.items()} == {
        quick: "completed",
        lasting: "completed",
        failing: "failed",
    }
    text = (project / "data/compare/tiny/index.md").read_text("utf-8")
    assert re.search(r"\* tiny-\w{8}: stage train failed: seed 13 brings bad luck .*run\.log\)", text)
    assert "seed 13 brings bad luck" in (project / ".runs" / failing / ".dvc/tmp/run.log").read_text("utf-8")
    assert git(project, "status", "--porcelain") == ""
    assert all(run.memory.keys() == run.seconds.keys() for run in first.values())
    assert all(30 < most < 1000 for run in first.values() for most in run.memory.values())  # DVC and a small program

    _, again = sweep(project, "tiny")
    assert "2 of the 3 runs of tiny are complete already" in again
    second = records(project)
    assert {name for name in first if first[name].pid != second[name].pid} == {failing}


def test_what_two_runs_at_once_have_in_common_is_made_once(project, sweep):
    write(project / "grids/alike.yaml", "train.num_epoch: [1, 2]\npairs.support_ratio: [0.3]\n")
    code, printed = sweep(project, "alike", "--jobs", "2")
    assert code == 0, printed
    reason = "pairs.support_ratio 1.0 → 0.3"
    assert sorted(run.stages["pairs"] for run in records(project).values()) == [f"ran: {reason}", f"restored: {reason}"]


@pytest.fixture(scope="module")
def swept(toy: Path, sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose curve has been swept: at first in vain, since no workspace could be made, and then again."""
    with pytest.MonkeyPatch.context() as patch:
        project = enter(toy, tmp_path_factory.mktemp("swept"), patch)
        no_clone = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.file.allow", "GIT_CONFIG_VALUE_0": "never"}
        for name, value in no_clone.items():
            patch.setenv(name, value)
        code, printed = sweep(project, "curve")
        assert code == 1
        assert "error: 3 of 3 runs failed" in printed
        shown = Page((project / "data/compare/curve/index.html").read_text("utf-8")).shown
        assert shown.count("missing: `git clone --quiet` failed: fatal: transport") == 6
        patch.delenv("GIT_CONFIG_COUNT")
        code, printed = sweep(project, "curve", "--jobs", "2")
        assert code == 0, printed
    return project


def test_a_curve_is_drawn_over_the_one_parameter_and_the_page_is_whole(swept):
    project = swept
    page = (project / "data/compare/curve/index.html").read_text("utf-8")
    assert 'aria-label="support from 0 to 1, pairs.support_ratio 0 to 1"' in page
    assert 'aria-label="margin from −2 to 2, pairs.support_ratio 0 to 1"' in page
    assert page.count("pairs.support_ratio: ") == 2  # each run differs from its neighbour in it
    assert page.count("data/report/index.html") == 6  # of each run beside its figures and its defects
    assert all((project / "data/compare/curve" / link).is_file() for link in re.findall(r'href="(\.\./[^"]+)"', page))


def test_a_workspace_that_could_not_be_made_is_made_and_one_that_lost_files_gets_them_back(swept, sweep, monkeypatch):
    project, page = swept, swept / "data/compare/curve/index.html"
    monkeypatch.chdir(project)
    torn, bare, _ = (project / ".runs" / named("curve", point) for point in points("curve"))
    for path in ("data/evaluation/metrics.json", "data/train/log.csv", "data/evaluation/stances.json"):
        (torn / path).unlink()
    (bare / "params.yaml").unlink()
    code, printed = sweep(project, "curve", "--jobs", "2")
    assert code == 0, printed
    assert "1 of the 3 runs of curve are complete already" in printed
    assert "missing" not in page.read_text("utf-8")
