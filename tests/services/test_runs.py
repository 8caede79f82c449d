"""Runs in workspaces of their own: they disturb neither each other nor the tree, and can be listed and applied."""

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from flows.settings import Settings
from stance.errors import InputError
from stance.machine.files import read_yaml
from stance.machine.supervisor import MARK
from stance.runs import catalogue, stages, workspace
from stance.runs.preparation import prepare
from stance.runs.record import Run
from tests.builders.toy_project import dvc, enter

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # pygtrie's, in DVC


@pytest.fixture
def project(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(toy, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def ended(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two runs that were made at the same time."""
    with pytest.MonkeyPatch.context() as patch:
        project = enter(toy, tmp_path_factory.mktemp("ended"), patch)
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda ratio: completed(f"run-{ratio}", support_ratio=ratio), (0, 1)))
    return project


@pytest.fixture
def two_runs(ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(ended, tmp_path, monkeypatch)


def reproduce(folder: Path) -> dict[str, str]:
    return {name: prepared(name, folder) for name in stages.names(folder)}


def prepared(name: str, folder: Path) -> str:
    return prepare(name, folder).outcome or stages.reproduce(name, folder, lambda _: None)


def completed(name: str, **given: object) -> Path:
    folder = workspace.create(name, Settings.model_validate(given).parameters(), edits=False)
    outcomes = reproduce(folder)
    workspace.save(Run.read(folder).updated(folder, state="completed", stages=outcomes), folder)
    return folder


def aligned(folder: Path) -> float:
    return float(json.loads((folder / "data/evaluation/metrics.json").read_text())["aligned"]["support"])


def test_two_runs_at_once_end_right_and_leave_the_tree_as_it_was(ended: Path, git):
    assert [aligned(ended / ".runs" / name) for name in ("run-0", "run-1")] == [0, 1]
    assert git(ended, "status", "--porcelain") == ""
    listed = dvc(ended, "exp", "list")
    assert "run-0" in listed
    assert "run-1" in listed


def test_what_the_cache_has_is_linked_and_not_run_again(project: Path):
    folder = workspace.create("again", Settings().parameters(), edits=False)
    assert set(reproduce(folder).values()) == {"unchanged"}
    pairs = (folder / "data/pairs/train.jsonl").stat()
    assert pairs.st_nlink == 2
    assert catalogue.disk(folder) < pairs.st_size


def test_what_was_made_here_is_restored_though_the_lock_names_what_another_machine_made(project: Path, git):
    text = (project / "dvc.lock").read_text()
    recorded = read_yaml(project / "dvc.lock")["stages"]["pairs"]["outs"][0]["md5"]
    (project / "dvc.lock").write_text(text.replace(recorded, "0" * 32 + ".dir"))
    git(project, "commit", "--quiet", "--all", "--message", "as another machine made it")
    here = workspace.create("here", Settings().parameters(), edits=False)
    assert prepare("pairs", here)[:2] == (["data/pairs not in cache"], "restored")
    assert read_yaml(here / "dvc.lock")["stages"]["pairs"]["outs"][0]["md5"] == recorded
    shutil.rmtree(project / ".dvc/cache/runs")
    nowhere = workspace.create("nowhere", Settings().parameters(), edits=False)
    assert prepared("pairs", nowhere) == "ran"


def test_outputs_that_dvc_does_not_keep_are_made_again(project: Path, git):
    """As the merged model is."""
    kept = (project / "dvc.yaml").read_text().replace("[data/answers]", "[data/answers: {cache: false, persist: true}]")
    (project / "dvc.yaml").write_text(kept)
    dvc(project, "repro", "--quiet")
    git(project, "commit", "--quiet", "--all", "--message", "answers that are not kept")
    folder = workspace.create("again", Settings().parameters(), edits=False)
    assert reproduce(folder)["answers_aligned"] == "ran"


def test_uncommitted_edits_are_in_a_run_only_when_asked_for(project: Path, git):
    (project / "stage.py").write_text((project / "stage.py").read_text().replace("report", "REPORT"))
    (project / "new.txt").write_text("new")
    before = git(project, "status", "--porcelain")
    without, with_them = (
        workspace.create(f"run-{edits}", Settings().parameters(), edits=edits) for edits in (False, True)
    )
    assert not (without / "new.txt").exists()
    assert (with_them / "new.txt").read_text() == "new"
    assert "REPORT" in (with_them / "stage.py").read_text()
    assert git(project, "status", "--porcelain") == before
    recorded = Run.read(with_them)
    assert recorded.snapshot != recorded.commit
    assert git(project, "show", f"{recorded.snapshot}:new.txt") == "new"


def test_edits_of_the_parameters_are_noticed_and_those_of_other_files_are_not_taken_for_them(project: Path):
    (project / "new.txt").write_text("new")
    assert workspace.edited("params.yaml") == []
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "# a note\n")
    assert workspace.edited("params.yaml") == ["params.yaml"]


def test_the_reasons_name_parameters_with_both_values_and_files(project: Path):
    folder = workspace.create("why", Settings(support_ratio=0.25, num_epoch=1).parameters(), edits=False)
    before = read_yaml(project / "params.yaml")
    assert prepare("pairs", folder).reasons == [f"pairs.support_ratio {before['pairs']['support_ratio']} → 0.25"]
    stages.reproduce("pairs", folder, lambda _: None)
    assert set(prepare("train", folder).reasons) == {
        f"train.num_epoch {before['train']['num_epoch']} → 1.0",
        "data/pairs modified",
    }
    assert prepare("pairs", folder).reasons == []


def test_wrong_settings_leave_no_workspace(project: Path, git):
    with pytest.raises(InputError, match="train.bata"):
        workspace.create("wrong", Settings(overrides={"train.bata": 1}).parameters(), edits=False)
    assert not (project / ".runs/wrong").exists()
    assert git(project, "for-each-ref", "refs/runs") == ""


@pytest.mark.parametrize("name", ["../outside", "a/b", ".hidden", "", "two words"])
def test_a_name_that_is_no_folder_of_ours_is_refused(name: str, project: Path):
    with pytest.raises(InputError, match="cannot name a run"):
        workspace.create(name, Settings().parameters(), edits=False)


def test_a_run_tried_again_finds_its_workspace_and_a_namesake_does_not(project: Path):
    folder = workspace.create("twin", Settings().parameters(), edits=False)
    Run.read(folder).updated(folder, flow_run_id="first")
    assert workspace.of_flow_run("twin", "first") == folder
    assert workspace.of_flow_run("twin", "second") is None
    with pytest.raises(InputError, match="there is a run twin already"):
        workspace.create("twin", Settings().parameters(), edits=False)


def test_a_failed_run_keeps_what_it_made_and_takes_no_credit_for_the_rest(project: Path):
    folder = workspace.create("unlucky", Settings(seed=13).parameters(), edits=False)
    stages.reproduce("pairs", folder, lambda _: None)
    with pytest.raises(RuntimeError, match="stage train failed"):
        stages.reproduce("train", folder, lambda _: None)
    run = Run.read(folder).updated(folder, state="failed", stages={"pairs": "unchanged"})
    workspace.save(run, folder)
    assert (folder / "data/pairs/train.jsonl").exists()
    assert not (folder / "data/evaluation/metrics.json").exists()
    assert "unlucky-failed" in dvc(project, "exp", "list")


def test_a_completed_run_is_applied_to_a_clean_tree(two_runs: Path):
    folder = two_runs / ".runs/run-0"
    catalogue.apply("run-0")
    for name in ("params.yaml", "dvc.lock", "data/evaluation/metrics.json"):
        assert (two_runs / name).read_bytes() == (folder / name).read_bytes()
    assert set(reproduce(two_runs).values()) <= {"unchanged", "restored"}


def test_apply_never_overwrites_edits(two_runs: Path):
    (two_runs / "stage.py").write_text("# edited\n")
    with pytest.raises(InputError, match="uncommitted edits"):
        catalogue.apply("run-0")


def test_comparing_shows_what_differs_only(two_runs: Path):
    rows = catalogue.compare(["run-0", "run-1"])
    keys = list(rows.columns[0].cells)
    assert {"pairs.support_ratio", "aligned.support", "aligned.oppose"} <= set(keys)
    assert "train.beta" not in keys


def test_removing_a_run_leaves_neither_files_nor_refs(two_runs: Path, git):
    catalogue.remove(["run-0"])
    assert [run.name for _, run in workspace.all_runs()] == ["run-1"]
    listed = dvc(two_runs, "exp", "list")
    assert "run-1" in listed
    assert "run-0" not in listed
    assert git(two_runs, "for-each-ref", "--format=%(refname)", "refs/runs") == "refs/runs/run-1"


def test_a_workspace_whose_making_was_cut_off_is_made_anew(project: Path):
    (project / ".runs/cut/.git").mkdir(parents=True)
    (project / ".runs/.cut.making").touch()  # the maker leaves it until there is a record
    folder = workspace.create("cut", Settings().parameters(), edits=False, flow_run_id="1")
    assert (Run.read(folder).state, Run.read(folder).flow_run_id) == ("running", "1")
    assert (folder / "params.yaml").exists()


def test_what_an_earlier_try_left_is_ended_and_its_locks_removed(project: Path):
    folder = workspace.create("again", Settings().parameters(), edits=False)
    (folder / ".dvc/tmp/rwlock").write_text("{")  # of a DVC that was killed while it wrote
    marked = {**os.environ, MARK: str(folder)}
    with subprocess.Popen(["sleep", "600"], env=marked) as left, subprocess.Popen(["sleep", "600"]) as other:
        [(known, _)] = workspace.all_runs()
        workspace.clean_up(known)
        alive = [psutil.pid_exists(process.pid) for process in (left, other)]
        other.kill()
    assert alive == [False, True]
    prepare("train", folder)


def test_a_run_that_somebody_works_on_is_not_removed(project: Path):
    workspace.create("busy", Settings().parameters(), edits=False)
    with pytest.raises(InputError, match="busy is running"):
        catalogue.remove(["busy"])
