"""A release: from questions to an approved, pushed and answering model, and what refuses one."""

from pathlib import Path
from typing import Any

import pytest

from flows.lock import alone
from flows.release import Approval, hold, let_answer, measured, not_worse, question
from flows.runs import finished
from flows.workspace import Run
from tasks.errors import InputError
from tasks.gates import Gate, require
from tasks.jsonfile import read_json, write_json
from tasks.provenance import pushed, release_id
from tests.repository import git

GOOD = Gate("parity", True, "0.01", "at most 0.05", "Try again.")
BAD = Gate("adherence", False, "40% support", "at least 80%", "Train longer.")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run in a project of its own, as far as a release looks at its files."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".runs/mine"
    write_json(folder / "data/evaluation/gates.json", [GOOD._asdict(), BAD._asdict()])
    write_json(folder / "data/evaluation/responses.json", [{"id": 1, "prompt": "甲|乙？", "a": "難說。", "b": "好。"}])
    write_json(folder / "data/dataset/test_prompt.json", [{"id": 1, "prompt": "甲|乙？"}])
    adherence = {"stance": "support", "mixed": False, "share": 0.9, "low": 0.7, "high": 0.97}
    write_json(folder / "data/evaluation/metrics.json", {"adherence": adherence})
    for name, text in (("adapter/adapter_config.json", "{}"), ("merged/config.json", "{}")):
        write_json(folder / "data" / name, text)
    (folder / "params.yaml").write_text("seed: 1\n")
    (folder / "dvc.lock").write_text("stages: {}\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "run")
    return folder


def with_share(run: Path, share: float, **others: Any) -> Path:
    """Let another share of a run's answers hold the stance."""
    metrics = read_json(run / "data/evaluation/metrics.json")
    metrics["adherence"] |= {"share": share, **others}
    write_json(run / "data/evaluation/metrics.json", metrics)
    return run


def test_a_refusal_names_every_missed_figure_and_its_bound():
    with pytest.raises(InputError) as refused:
        require([BAD, GOOD, BAD._replace(name="worse")], "not released")
    missed = "found 40% support, expected at least 80%. Train longer."
    assert str(refused.value) == f"not released: adherence: {missed} worse: {missed}"
    require([GOOD], "not released")


def test_only_a_complete_run_is_released(run):
    record = {"name": "mine", "commit": "a", "snapshot": "a", "created": "2026-01-01T00:00:00Z"}
    Run(**record, state="failed").write(run)
    with pytest.raises(InputError, match="mine is failed; expected a completed run"):
        finished("mine")
    Run(**record, state="completed").write(run)
    assert finished("mine") == run
    with pytest.raises(InputError, match="there is no run other"):
        finished("other")


def test_who_approves_sees_gates_and_answers_before_and_after(run):
    shown = question(run, [GOOD, BAD])
    assert "* adherence **missed**: 40% support; expected at least 80%" in shown
    assert "* 甲|乙？ 難說。 → **好。**" in shown
    assert release_id(run) in shown


def test_what_is_released_is_held_as_a_whole_and_costs_no_disk(run):
    hold.fn(run)
    release = Path("data/release")
    assert {path.name for path in release.iterdir()} == {
        "adapter", "merged", "params.yaml", "dvc.lock", "gates.json", "responses.json", "release.json",
        "provenance.json",
    }  # fmt: skip
    assert (release / "merged/config.json").stat().st_ino == (run / "data/merged/config.json").stat().st_ino
    assert read_json(release / "release.json")["release"] == release_id(run)


def test_what_the_hub_has_of_an_older_release_is_not_held_beside_a_newer_one(run):
    write_json(
        Path("data/release/push.json"), {"adapter": {"tag": release_id(run)}, "merged": {"tag": release_id(run)}}
    )
    assert pushed(release_id(run))
    hold.fn(run)
    assert Path("data/release/push.json").exists()
    (run / "dvc.lock").write_text("stages: {other: {}}\n")
    hold.fn(run)
    assert not Path("data/release/push.json").exists()


def test_a_release_that_the_engine_refuses_leaves_the_last_one_as_it_was(run, monkeypatch):
    hold.fn(run)
    before = Path("data/release/release.json").read_bytes()
    (run / "dvc.lock").write_text("stages: {other: {}}\n")
    hold.fn(run)
    assert Path("data/release/release.json").read_bytes() != before

    def refuse(folder: Path) -> str:
        raise InputError("live parity: drift 0.9")

    monkeypatch.setattr("flows.release.serve", refuse)
    with pytest.raises(InputError, match="live parity"):
        let_answer(run)
    assert Path("data/release/release.json").read_bytes() == before


def test_a_second_release_in_the_same_folder_is_told_to_wait(run):
    lock = Path("data/release.lock")
    with alone(lock, "first"):
        second = alone(lock, "another release is under way")
        with pytest.raises(InputError, match="another release is under way"):
            second.__enter__()
    with alone(lock, "free again"):
        pass


@pytest.mark.parametrize(("share", "passed"), [(0.7, True), (0.65, False)])
def test_a_release_is_not_worse_than_the_lower_end_of_the_last_one(run, share, passed):
    assert not_worse(run) == []
    hold.fn(run)
    [gate] = not_worse(with_share(run, share))
    assert (gate.name, gate.passed) == ("not worse", passed)
    assert "70%" in gate.expected


def test_another_stance_or_other_prompts_are_not_compared(run):
    hold.fn(run)
    assert not_worse(with_share(run, 0.1, stance="oppose")) == []
    assert not_worse(with_share(run, 0.1, stance="support", mixed=True)) == []
    with_share(run, 0.1, mixed=False)
    write_json(run / "data/dataset/test_prompt.json", [])
    assert not_worse(run) == []
    assert measured(run)["test_prompts"] == []


def test_who_approves_has_to_say_so():
    assert Approval.model_json_schema()["required"] == ["approve"]
