"""Runs in the DVC remote: published by one machine, taken over by another with a cache of its own."""

from pathlib import Path

import pytest

from stance.config.profiles import Overrides
from stance.errors import InputError, Unreachable
from stance.runs import shared, stages, workspace
from stance.runs.record import Run
from tests.builders.pool import write_remote
from tests.builders.repository import git
from tests.builders.toy_project import copy, dvc

pytestmark = pytest.mark.timeout(300)

CHANGES = {"pairs.support_ratio": 0.125}
PATHS = [Path("data/report"), Path("data/evaluation/metrics.json"), Path("data/pairs/eval.jsonl")]


@pytest.fixture(scope="module")
def project(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run `one` is in the remote."""
    project = copy(toy, tmp_path_factory.mktemp("shared"))
    write_remote(project, {"url": project.parent / "store"})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        folder = workspace.create("one", Overrides(changes=CHANGES), edits=False)
        dvc(folder, "repro", "--quiet")
        Run.read(folder).updated(folder, state="completed", stages={"pairs": "ran"})
        stages.push(folder, print)
        shared.publish(folder)
    return project


@pytest.fixture
def elsewhere(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with the same remote and an empty cache."""
    clone = tmp_path / "clone"
    git(project, "clone", "--quiet", str(project), str(clone))
    write_remote(clone, {"url": project.parent / "store"})
    monkeypatch.chdir(clone)
    return clone


def test_a_run_is_taken_over_with_the_outputs_that_were_asked_for_and_no_other(project, elsewhere):
    record = shared.published("one")
    shared.adopt(record, CHANGES, PATHS)
    here, there = elsewhere / ".runs/one", project / ".runs/one"
    same = ("dvc.lock", "params.yaml", "data/report/index.html", "data/pairs/eval.jsonl", "data/train/metrics.json")
    assert [path for path in same if (here / path).read_bytes() != (there / path).read_bytes()] == []
    assert not (here / "data/adapter").exists()
    assert not (here / "data/evaluation/stances.json").exists()
    run = Run.read(here)
    assert (run.state, run.stages, run.overrides, run.alive()) == ("completed", {"pairs": "ran"}, CHANGES, False)
    assert git(elsewhere, "status", "--porcelain") == ""


def test_a_run_that_nobody_published_is_none(elsewhere):
    assert shared.published("two") is None


def test_what_the_remote_lacks_or_a_damaged_record_is_told_and_leaves_no_workspace(project, elsewhere):
    record = shared.published("one")
    assert record
    lost = record.model_copy(update={"lock": record.lock.replace("md5: ", "md5: 0")})
    with pytest.raises(ConnectionError, match="the remote store does not answer or fails: "):
        shared.adopt(lost, CHANGES, PATHS)
    assert not (elsewhere / ".runs/one").exists()
    (project.parent / "store/records/three.json").write_text('{"run": 1}')
    with pytest.raises(InputError, match=r"records/three.json in the remote is no record of a run \(.*\); remove it"):
        shared.published("three")


def test_a_remote_that_is_away_is_told_in_one_sentence(elsewhere):
    write_remote(elsewhere, {"url": "http://127.0.0.1:9/store"})
    with pytest.raises(ConnectionError, match=r"^the remote store does not answer or fails: .*127\.0\.0\.1"):
        shared.published("one")


def test_a_commit_that_is_only_elsewhere_is_fetched_and_the_run_works_at_it(project, elsewhere):
    before = git(elsewhere, "rev-parse", "HEAD")
    (project / "later.txt").touch()
    git(project, "add", "later.txt")
    git(project, "commit", "--quiet", "--message", "later")
    later = git(project, "rev-parse", "HEAD")
    folder = workspace.create("at", Overrides(), edits=False, commit=later)
    assert (Run.read(folder).commit, (folder / "later.txt").exists()) == (later, True)
    assert git(elsewhere, "rev-parse", "HEAD") == before
    assert git(elsewhere, "status", "--porcelain") == ""


def test_a_commit_that_is_nowhere_or_whose_repository_is_away_is_told(elsewhere):
    with pytest.raises(InputError, match="commit 0{39}1 is neither here nor in the repository origin; push it there"):
        workspace.obtain("0" * 39 + "1")
    git(elsewhere, "remote", "set-url", "origin", str(elsewhere / "nowhere"))
    with pytest.raises(Unreachable, match="could not be fetched from the repository origin: "):
        workspace.obtain("0" * 39 + "2")
