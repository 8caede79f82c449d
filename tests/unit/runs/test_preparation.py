"""How a stage gets its outputs without a run: byte for byte as DVC itself gives them, and made once for all runs."""

import shutil
import threading
from pathlib import Path

import pytest

from stance.machine.files import read_yaml
from stance.runs.preparation import in_turn, prepare
from tests.builders.toy_project import dvc, enter

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # pygtrie's, in DVC


@pytest.fixture
def project(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(toy, tmp_path, monkeypatch)


def files(folder: Path) -> dict[str, bytes]:
    """The lock and the outputs of a project, those in git too."""
    made = [path for path in (folder / "data").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in [*made, folder / "dvc.lock"]}


def set_ratio(folder: Path, ratio: float) -> None:
    text, before = (folder / "params.yaml").read_text(), read_yaml(folder / "params.yaml")["pairs"]["support_ratio"]
    (folder / "params.yaml").write_text(text.replace(f"support_ratio: {before}", f"support_ratio: {ratio}"))


def test_what_a_run_made_before_is_restored_as_dvc_restores_it(project: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a process: the program of the stages is gone. From another folder: a sweep works on several."""
    set_ratio(project, 0.25)
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


def test_the_note_of_a_stage_off_the_road_is_left_as_dvc_leaves_it(project: Path, monkeypatch: pytest.MonkeyPatch):
    command = "mkdir -p data/rl && echo note > data/rl/note.txt"
    stage = f"  rl:\n    cmd: {command}\n    deps: [data/pairs]\n    outs: [data/rl]\n"
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text() + stage)
    lock = (project / "dvc.lock").read_text()
    dvc(project, "repro", "--quiet", "rl")
    wanted = files(project)
    shutil.rmtree(project / "data/rl")
    shutil.rmtree(project / ".dvc/cache/runs")
    (project / "dvc.lock").write_text(lock)
    monkeypatch.chdir("/")
    assert prepare("rl", project).outcome == "ran"
    assert files(project) == wanted
    assert "rl" not in dvc(project, "status")


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
    assert not turn.exists()
    with in_turn(None, say) as waited:
        assert not waited
