"""A release: from questions to an approved, pushed and answering model, and what refuses one."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.release import Approval, deploy, question, record_release, release, settle, withdraw
from stance.client.local import write_state
from stance.config.profiles import compose
from stance.data.records import Gate, require
from stance.errors import InputError
from stance.language.messages import message, sentence
from stance.machine.files import read_json, write_json
from stance.machine.locks import exclusive
from stance.release.held import not_worse, record, release_record
from stance.runs.catalogue import finished
from stance.runs.finished import FinishedRun
from stance.runs.provenance import on_hub_as, release_id
from stance.runs.record import Run
from stance.runs.released import Pushed, write_pushed
from stance.runs.signature import public_key
from stance.runs.verification import verify_folder
from tests.builders.finished_run import make_another_release, write_lock, write_run

MINIATURE = compose("miniature")


def gate(name: str, passed: bool, *texts: str) -> Gate:
    figure, bound, advice = (message("problem", problem=text) for text in texts)
    return Gate(name=name, passed=passed, figure=figure, bound=bound, advice=advice)


GOOD = gate("parity", True, "0.01", "at most 0.05", "Try again.")
BAD = gate("adherence", False, "40% support", "at least 80%", "Train longer.")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run in a project of its own, as far as a release looks at its files."""
    folder = write_run(tmp_path / ".runs/mine")
    monkeypatch.chdir(tmp_path)
    interval = {"share": 0.9, "low": 0.7, "high": 0.97, "count": 18, "total": 20}
    adherence = {"stance": "support", "mixed": False, **interval}
    change(folder, "data/evaluation/metrics.json", adherence=adherence)
    responses = [{"id": 1, "prompt": "甲|乙？", "response_from_original_model": "難說。"}]
    write_json(folder / "data/evaluation/responses.json", [responses[0] | {"response_from_trained_model": "好。"}])
    write_lock(folder)
    return folder


def change(run: Path, name: str, **values: Any) -> None:
    """Set values in a JSON file of a run."""
    write_json(run / name, read_json(run / name) | values)


def at_hub(run: Path) -> dict[str, Pushed]:
    """Return what a push of the run would leave on the Hub."""
    return {"merged": Pushed(repo_id="a/b", url="https://hub/a/b", commit="1" * 40, tag=release_id(run), files={})}


def hold(run: Path, on_hub: dict[str, Pushed]) -> FinishedRun:
    """Record a release of the run as it is."""
    finished_run = FinishedRun.read(run)
    record(finished_run, on_hub)
    return finished_run


def with_share(run: Path, share: float, **others: Any) -> Path:
    """Let another share of a run's answers hold the stance."""
    metrics = read_json(run / "data/evaluation/metrics.json")
    metrics["adherence"] |= {"share": share, **others}
    write_json(run / "data/evaluation/metrics.json", metrics)
    write_lock(run)
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_refusal_names_every_missed_figure_and_its_bound():
    with pytest.raises(InputError) as refused:
        require([BAD, GOOD, BAD.model_copy(update={"name": "worse"})], "not released")
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
    shown = question(FinishedRun.read(run), [GOOD, BAD])
    assert "* adherence **missed**: 40% support; expected at least 80%" in shown
    assert "* 甲|乙？ 難說。 → **好。**" in shown
    assert release_id(run) in shown


def test_what_is_released_is_held_as_a_whole_and_cannot_change_with_the_run(run):
    hold(run, {})
    release = Path("data/release")
    assert verify_folder(release, public_key()) == release_id(run)
    assert {path.name for path in release.iterdir()} == {
        "adapter", "merged", "params.yaml", "dvc.lock", "gates.json", "responses.json", "release.json",
        "provenance.json", "model.sig",
    }  # fmt: skip
    before = contents(release)
    for path in run.glob("data/*/*.json"):
        path.write_text("written in place")
    assert contents(release) == before
    assert {path.stat().st_mode & 0o777 for path in release.glob("*/*")} == {0o444}
    assert read_json(release / "release.json")["release"] == release_id(run)


def test_what_the_hub_has_of_an_older_release_is_not_held_beside_a_newer_one(run):
    on_hub = at_hub(run)
    write_pushed(on_hub, Path("data/release"))
    assert on_hub_as(release_id(run)) == on_hub
    hold(run, {})
    assert Path("data/release/push.json").exists()
    shutil.rmtree("data/release.before")
    make_another_release(run)
    hold(run, {})
    assert not Path("data/release/push.json").exists()


def test_a_release_that_the_engine_refuses_leaves_the_last_one_as_it_was(run, monkeypatch):
    hold(run, at_hub(run))
    shutil.rmtree("data/release.before")
    before = contents(Path("data/release"))
    make_another_release(run)
    hold(run, at_hub(run))
    assert contents(Path("data/release")) != before

    def refuse(run: FinishedRun) -> str:
        raise InputError("live parity: drift 0.9")

    monkeypatch.setattr("flows.release.serve", refuse)
    with pytest.raises(InputError, match=rf"drift 0.9 \(the Hub has the tag {release_id(run)} all the same"):
        deploy(FinishedRun.read(run), at_hub(run))
    assert contents(Path("data/release")) == before


def test_a_first_release_that_the_engine_refuses_leaves_none(run, monkeypatch):
    hold(run, {})
    monkeypatch.setattr("flows.release.serve", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        deploy(FinishedRun.read(run), {})
    assert not [path.name for path in Path("data").glob("release*")]


def answers(release: str) -> None:
    """Let this process be the endpoint of the folder, which serves a release."""
    Path(".serve").mkdir(exist_ok=True)
    write_state({"live": {"release": release}})


@pytest.mark.parametrize(("before", "back"), [("r-older", "rollback"), (None, "stop")])
def test_a_release_that_ends_after_the_switch_is_taken_back(run, monkeypatch, before, back):
    hold(run, {})
    orders = []
    for order in ("rollback", "stop"):
        monkeypatch.setattr(f"flows.release.{order}", lambda order=order: orders.append(order))
    monkeypatch.setattr("flows.release.get_run_logger", lambda: logging.getLogger())
    monkeypatch.setattr("flows.release.create_link_artifact", lambda *arguments, **options: None)
    monkeypatch.setattr("flows.release.serve", lambda run: answers(run.release) or "http://127.0.0.1:1/v1")
    monkeypatch.setattr("flows.release.ask", lambda run, address: 1 / 0)
    if before:
        answers(before)
    with pytest.raises(ZeroDivisionError):
        deploy(FinishedRun.read(run), {})
    assert orders == [back]
    assert not [path.name for path in Path("data").glob("release*")]


def test_a_release_that_cannot_be_taken_back_stays_in_both_places(run, monkeypatch):
    hold(run, {})
    held = contents(Path("data/release"))
    monkeypatch.setattr("flows.release.get_run_logger", lambda: logging.getLogger())
    monkeypatch.setattr("flows.release.rollback", none_before)
    answers(release_id(run))
    withdraw(FinishedRun.read(run), "r-older")
    assert contents(Path("data/release")) == held


def none_before() -> str:
    raise InputError("there is no model before this one")


@pytest.mark.parametrize("newer_answers", [True, False])
def test_after_a_kill_the_release_that_answers_is_the_one_that_is_held(run, newer_answers):
    hold(run, {})
    shutil.rmtree("data/release.before")
    older = contents(Path("data/release"))
    make_another_release(run)
    hold(run, {})
    newer = contents(Path("data/release"))
    answers(release_id(run) if newer_answers else "r-older")
    settle()
    assert contents(Path("data/release")) == (newer if newer_answers else older)
    assert not Path("data/release.before").exists()


@pytest.fixture
def released(run, monkeypatch) -> Callable[[], dict[str, Any]]:
    """Release the run without an endpoint; its gates pass, and what each looks at is noted in `seen`."""
    Path("params.yaml").write_text(yaml.safe_dump(MINIATURE, allow_unicode=True))
    monkeypatch.setattr("flows.release.finished", lambda name: run)
    monkeypatch.setattr("flows.release.judge", lambda run: [GOOD, *not_worse(run)])
    monkeypatch.setattr("flows.release.record_release", record_release.fn)
    monkeypatch.setattr("flows.release.recompute", lambda run: None)  # its weights are made-up bytes
    return lambda **options: release.fn(run="mine", answering=False, **options)


def test_a_second_release_in_the_same_folder_is_told_to_wait(released):
    with exclusive(Path("data/release.lock"), "first"), pytest.raises(InputError, match="another release is under way"):
        released()
    assert not Path("data/release").exists()
    released()
    assert sorted(path.name for path in Path("data").glob("release*")) == ["release", "release.lock"]


def test_what_passed_before_it_was_approved_is_looked_at_again(run, released, monkeypatch):
    released()

    def approve_something_worse(*_: object) -> None:
        with_share(run, 0.1)

    monkeypatch.setattr("flows.release.approve", approve_something_worse)
    with pytest.raises(InputError, match="not worse: found 10% support"):
        released(approval_minutes=1)


def test_a_missed_gate_refuses_before_anything_is_measured_again(released, monkeypatch):
    monkeypatch.setattr("flows.release.judge", lambda run: [GOOD.model_copy(update={"passed": False})])
    monkeypatch.setattr("flows.release.recompute", lambda run: pytest.fail("the run was measured again"))
    with pytest.raises(InputError, match="not released, and nothing outside has changed: "):
        released()


def test_weights_that_change_after_the_gates_are_not_recorded(run):
    checked = FinishedRun.read(run)
    hold(run, {})
    shutil.rmtree("data/release.before")
    (run / "data/merged/config.json").unlink()
    (run / "data/merged/config.json").write_text("{}")
    before = contents(Path("data/release"))
    with pytest.raises(InputError, match=r"data/merged in .* differ from what dvc.lock records"):
        record(checked, {})
    assert contents(Path("data/release")) == before
    assert not Path("data/release.before").exists()


def test_a_release_that_was_killed_before_it_answered_does_not_count(run, released):
    released()
    before = contents(Path("data/release"))
    hold(with_share(run, 0.99, low=0.95), {})  # and killed
    assert contents(Path("data/release")) != before
    released()
    assert read_json(Path("data/release/release.json"))["adherence"]["share"] == 0.99
    hold(run, {})
    Path("data/release").rename("data/release.part")  # killed between the two renames
    with_share(run, 0.1)
    with pytest.raises(InputError, match="not worse: found 10% support, expected at least 95%"):
        released()


@pytest.mark.parametrize(("share", "passed"), [(0.7, True), (0.65, False)])
def test_a_release_is_not_worse_than_the_lower_end_of_the_last_one(run, share, passed):
    assert not_worse(FinishedRun.read(run)) == []
    hold(run, {})
    [gate] = not_worse(FinishedRun.read(with_share(run, share)))
    assert (gate.name, gate.passed) == ("not worse", passed)
    assert "70%" in sentence(gate.bound)


def test_another_stance_or_other_prompts_are_not_compared(run):
    hold(run, {})
    assert not_worse(FinishedRun.read(with_share(run, 0.1, stance="oppose"))) == []
    assert not_worse(FinishedRun.read(with_share(run, 0.1, stance="support", mixed=True))) == []
    hold(run, {})
    assert not_worse(FinishedRun.read(run)) == []  # two mixed ratios have no common stance either
    shutil.rmtree("data/release.before")
    with_share(run, 0.9, mixed=False)
    hold(run, {})
    with_share(run, 0.1, mixed=False)
    write_json(run / "data/dataset/test_prompt.json", [])
    write_lock(run)
    assert not_worse(FinishedRun.read(run)) == []
    assert release_record(FinishedRun.read(run)).test_prompts == []


def test_who_approves_has_to_say_so():
    assert Approval.model_json_schema()["required"] == ["approve"]
