"""How a stage gets its outputs without a run: byte for byte as DVC itself gives them, and made once for all runs."""

import shutil
import threading
from pathlib import Path

import pytest
import yaml

from stance.machine.files import read_yaml
from stance.runs.preparation import in_turn, prepare
from tests.builders.toy_project import dvc, enter

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # pygtrie's, in DVC


@pytest.fixture
def project(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(toy, tmp_path, monkeypatch)


def files(folder: Path) -> dict[str, tuple[object, bytes]]:
    """The lock, the outputs of a project, those in git too, and its run cache, with modes and numbers of links."""
    made = [path for path in (folder / "data").rglob("*") if path.is_file()]
    runs = [path for path in (folder / ".dvc/cache/runs").rglob("*") if path.is_file()]
    found = {}
    for path in [*made, *runs, folder / "dvc.lock"]:
        status = path.lstat()
        found[str(path.relative_to(folder))] = ((status.st_mode, status.st_nlink), path.read_bytes())
    return found


def set_ratio(folder: Path, ratio: float) -> None:
    text, before = (folder / "params.yaml").read_text(), read_yaml(folder / "params.yaml")["pairs"]["support_ratio"]
    (folder / "params.yaml").write_text(text.replace(f"support_ratio: {before}", f"support_ratio: {ratio}"))


def test_what_a_run_made_before_is_restored_as_dvc_restores_it(project: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a process: the program of the stages is gone. From another folder: a sweep works on several."""
    for ratio in (0.25, 1.0, 0.25):
        set_ratio(project, ratio)
        dvc(project, "repro", "--quiet")
    wanted = files(project)
    set_ratio(project, 1.0)
    dvc(project, "repro", "--quiet")
    assert files(project) != wanted
    set_ratio(project, 0.25)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("SHELL", "/nowhere")
    monkeypatch.chdir("/")
    outcomes = [prepare(stage, project).outcome for stage in ("pairs", "train", "answers_aligned", "evaluate")]
    assert outcomes == ["restored"] * 4
    assert files(project) == wanted
    assert {prepare(stage, project).outcome for stage in ("pairs", "train", "evaluate")} == {"unchanged"}


def test_outputs_that_were_deleted_come_back_from_the_cache(project: Path):
    shutil.rmtree(project / "data/pairs")
    dvc(project, "repro", "--quiet", "pairs")
    wanted = files(project)
    shutil.rmtree(project / "data/pairs")
    assert prepare("pairs", project)[:2] == (["data/pairs deleted"], "restored")
    assert files(project) == wanted


def test_a_stage_that_must_run_is_left_as_it_is(project: Path):
    before = files(project)
    set_ratio(project, 0.5)
    prepared = prepare("pairs", project)
    assert prepared.outcome is None
    assert prepared.reasons == ["pairs.support_ratio 1.0 → 0.5"]
    assert files(project) == before
    shutil.rmtree(project / ".dvc/cache/files")
    set_ratio(project, 1.0)
    shutil.rmtree(project / "data/pairs")
    assert prepare("pairs", project).outcome is None  # the run cache names files that are gone


def test_the_entries_of_other_stages_stay_as_they_are(project: Path):
    """DVC writes 5e-05, which another reader of YAML takes for a text."""
    pipeline, values = (project / "dvc.yaml").read_text(), read_yaml(project / "params.yaml")
    (project / "dvc.yaml").write_text(pipeline.replace("[train.num_epoch, seed]", "[train.learning_rate, seed]"))
    values["train"]["learning_rate"] = 5.0e-5
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    dvc(project, "repro", "--quiet")
    shutil.rmtree(project / "data/pairs")
    dvc(project, "repro", "--quiet", "pairs")
    wanted = files(project)
    assert b"train.learning_rate: 5e-05" in wanted["dvc.lock"][1]
    shutil.rmtree(project / "data/pairs")
    assert prepare("pairs", project).outcome == "restored"
    assert files(project) == wanted
    assert prepare("train", project).outcome == "unchanged"


def test_files_in_git_that_no_cache_has_are_not_deleted(project: Path):
    dvc(project, "gc", "--workspace", "--force")
    shutil.rmtree(project / "data/adapter")
    before = files(project)
    assert prepare("train", project).outcome is None
    assert files(project) == before


def test_what_dvc_refuses_is_told_in_a_sentence(project: Path):
    (project / "dvc.lock").write_text("no lock")
    with pytest.raises(RuntimeError, match="stage pairs failed: "):
        prepare("pairs", project)


def test_runs_that_would_make_the_same_have_the_same_turn(project: Path):
    turns = []
    for ratio in (0.5, 0.75, 0.5):
        set_ratio(project, ratio)
        turns.append(prepare("pairs", project).turn)
    assert turns[0] == turns[2] != turns[1]


def test_one_makes_a_stage_and_the_other_waits_for_it(tmp_path: Path):
    turn, told, order = tmp_path / "turns/a", list[str](), list[str]()
    waiting = threading.Event()

    def say(sentence: str) -> None:
        told.append(sentence)
        waiting.set()

    def other() -> None:
        with in_turn(turn, say) as waited:
            order.append(f"other, waited {waited}")

    thread = threading.Thread(target=other)
    with in_turn(turn, say) as waited:
        thread.start()
        assert waiting.wait(10)
        order.append(f"first, waited {waited}")
    thread.join(10)
    assert order == ["first, waited False", "other, waited True"]
    assert told == ["another run makes the same; waiting for it"]
    for nothing in (None, Path("/proc/nothing/turn")):
        with in_turn(nothing, say) as waited:
            assert not waited
