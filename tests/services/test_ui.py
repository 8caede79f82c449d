"""`make ui` with the real server: runs start from it, are cancelled, killed and taken up again, and leave nothing."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from flows.server import ui as start_ui
from stance.machine.locks import exclusive
from stance.machine.ports import free_port
from stance.runs.record import Run
from tests.builders.prefect_ui import (
    FINAL,
    SHOTS,
    Ui,
    field,
    gone,
    of,
    open_form,
    press,
    processes_of,
    submit,
    working_in,
)
from tests.builders.repository import git
from tests.builders.toy_project import training_held

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def shared_out(ui: Ui) -> list[dict[str, Any]]:
    """Five runs, of which two processes take two each at a time.

    Every stage of the first had to run. The training of the last finds no server, and waits before it asks again.
    """
    with ui.another():
        with training_held(ui.project, 12):
            runs = [ui.launch(support_ratio=0.25, num_epoch=12)]
            runs += [ui.launch(seed=seed, num_epoch=12) for seed in (20, 21, 22, 75)]
            assert ui.training(runs, 4) == 4
        assert ui.together(runs, within=360) == 4
    return runs


@pytest.fixture(scope="module")
def completed(shared_out: list[dict[str, Any]]) -> dict[str, Any]:
    return shared_out[0]


@pytest.fixture(scope="module")
def queued(ui: Ui, shared_out: list[dict[str, Any]]) -> Iterator[dict[str, dict[str, Any]]]:
    """Four runs that end in different ways. They start together, so that no test waits for the server alone."""
    with training_held(ui.project, 31):
        yield {
            "too long": ui.launch(stage_minutes=0.1, num_epoch=31),
            "failing": ui.launch(seed=13),
            "without a model": ui.create("serve/serve"),
            "grid": ui.create("sweep/sweep", grid="pair", jobs=2),
        }


def test_a_run_ends_in_a_workspace_and_the_tree_is_as_it_was(ui: Ui, completed):
    metrics = json.loads((ui.folder(completed) / "data/evaluation/metrics.json").read_text())
    assert metrics["aligned"]["support"] == 0.25
    assert git(ui.project, "status", "--porcelain") == ""


def test_the_tasks_are_the_stages_and_say_why_they_ran(ui: Ui, completed):
    states = ui.tasks(completed)
    assert list(states) == ["preflight", "pairs", "train", "answers_aligned", "evaluate"]
    assert states["pairs"]["name"] == "Ran"
    assert "pairs.support_ratio" in states["pairs"]["message"]
    assert "→ 0.25" in states["pairs"]["message"]


def test_a_run_leaves_its_summary_answers_and_progress_as_artifacts(ui: Ui, completed):
    artifacts = ui.artifacts(completed)
    curves = {"loss", "reward-margin", "reward-accuracy", "log-probability-of-the-answers"}
    assert (
        artifacts.keys()
        == {"preflight", "stages", "summary", "answers", "report", "train-progress", "answers-aligned-progress"}
        | curves
    )
    for key in ("loss", "report"):
        link = re.search(r"http://127\.0\.0\.1:\d+/\.runs/[\w/.-]+", artifacts[key])
        assert link
        with urlopen(link[0], timeout=30) as page:
            assert (b"<svg" if key == "loss" else b"<h1>report</h1>") in page.read()
    assert "[oppose]" in artifacts["answers"]
    assert "| machine | Linux" in artifacts["summary"]
    assert "| pairs.support_ratio | 0.25 |" in artifacts["summary"]
    assert f"| commit | {git(ui.project, 'rev-parse', 'HEAD')[:12]} |" in artifacts["summary"]
    assert "| adherence | passed | all | most |" in artifacts["summary"]
    assert artifacts["train-progress"] == 100


@pytest.mark.parametrize(("name", "value"), [("support_ratio", 2), ("beta", -1), ("rank", 8)])
def test_a_wrong_value_is_refused_at_once_with_the_name_of_its_field(ui: Ui, name: str, value: float):
    with pytest.raises(HTTPError) as refusal:
        ui.launch(**{name: value})
    assert refusal.value.code == 409 or refusal.value.code == 422
    assert name in refusal.value.read().decode()


def test_a_failed_stage_fails_the_run_with_its_name(ui: Ui, queued):
    run = queued["failing"]
    assert ui.wait(run, FINAL) == "FAILED"
    recorded = Run.read(ui.folder(run))
    assert (recorded.state, recorded.finished, set(recorded.stages)) == ("failed", ["pairs"], {"pairs", "train"})
    assert "stage train failed: seed 13 brings bad luck (it ran because of seed 42 → 13" in str(recorded.problem)
    failed = ui.tasks(run)["train"]
    assert failed["name"] == "Failed"
    assert "seed 13 brings bad luck (it ran because of seed 42 → 13" in failed["message"]


def test_a_stage_that_takes_too_long_is_ended_and_its_state_says_so(ui: Ui, queued):
    run = queued["too long"]
    ui.trains(run)
    assert ui.wait(run, FINAL, within=30) == "FAILED"
    assert working_in(ui.folder(run)) == []
    assert ui.tasks(run)["train"]["name"] == "TimedOut"
    assert "stage train took longer than 0.1 minutes" in str(Run.read(ui.folder(run)).problem)
    assert (ui.folder(run) / "checkpoint").exists()


def test_only_a_server_that_does_not_answer_is_asked_again(ui: Ui, shared_out):
    run = shared_out[-1]
    logs = ui.call("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    retries = [line["message"] for line in logs if "Retry 1/3" in line["message"]]
    assert len(retries) == 1
    assert "stage train failed: the Hub does not answer" in retries[0]


def test_two_serving_processes_take_each_run_once(ui: Ui, shared_out):
    assert [ui.tries(run) for run in shared_out] == [1] * 5


def test_a_grid_is_swept_from_its_deployment(ui: Ui, queued):
    run = queued["grid"]
    assert ui.wait(run, FINAL, within=300) == "COMPLETED"
    assert (ui.project / "data/compare/pair/index.html").exists()
    assert "| 0.25 | 25% |" in ui.artifacts(run)["comparison"]


def test_a_run_without_a_model_is_not_served_and_the_flow_says_why(ui: Ui, queued):
    run = queued["without a model"]
    assert ui.wait(run, FINAL) == "FAILED"
    assert (
        "data/merged does not exist; expected a finished run: `make repro` first"
        in ui.call("GET", f"/flow_runs/{run['id']}")["state"]["message"]
    )


def test_a_second_ui_says_that_it_is_up(ui: Ui):
    again = subprocess.run(
        [sys.executable, "-m", "flows.server"], cwd=ui.project, env=ui.environment, capture_output=True, text=True
    )
    assert (again.returncode, again.stdout) == (0, f"already up: http://127.0.0.1:{ui.port}\n")


def test_a_second_ui_while_the_first_starts_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    port = free_port()
    with exclusive(tmp_path / f".runs/ui-{port}.lock", "the first"):
        start_ui(port)
    assert capsys.readouterr().out == f"already starting: http://127.0.0.1:{port}\n"


def test_a_port_of_another_program_is_refused_in_a_sentence(ui: Ui):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        environment = {**ui.environment, "PORT": str(other.getsockname()[1])}
        refused = subprocess.run(
            [sys.executable, "-m", "flows.server"], cwd=ui.project, env=environment, capture_output=True, text=True
        )
    assert refused.returncode == 1
    assert "is in use by another program; end it, or take another" in refused.stderr


def test_a_killed_run_is_marked_crashed_by_the_next_start_and_goes_on_when_retried(ui: Ui):
    with training_held(ui.project, 8):
        run = ui.launch(support_ratio=1, num_epoch=8, seed=99)
        processes = ui.trains(run)
        ui.process.kill()
        gone(processes)
    ui.process.communicate()
    ui.process = ui.start()
    assert ui.wait(run, FINAL) == "CRASHED"
    assert Run.read(ui.folder(run)).state == "crashed"
    ui.retry(run)
    assert ui.wait(run, {"COMPLETED", "FAILED"}) == "COMPLETED"
    assert Run.read(ui.folder(run)).stages["pairs"] == "unchanged"


@pytest.fixture(scope="module")
def page(ui: Ui) -> Iterator["Page"]:
    with ui.page() as opened:
        yield opened


@pytest.fixture(scope="module")
def cancelled(ui: Ui, page: "Page") -> dict[str, Any]:
    """A run from the form, which first refused a wrong value. The run is cancelled by its button while it trains."""
    from playwright.sync_api import expect

    name = open_form(page)
    field(page, "Support Ratio").fill("2")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("2 is greater than the maximum of 1").first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "ui-2-refused.png")
    field(page, "Support Ratio").fill("0")
    field(page, "Num Epoch").fill("15")
    with training_held(ui.project, 15):
        submit(page)
        page.goto("about:blank")  # a page of the server draws without a pause, and takes the time of the run
        run = ui.named(name)
        processes = ui.trains(run)
        assert len(processes_of(run)) >= 4  # the flow, guard, DVC, the stage, and its child in a session of its own
        page.goto(f"/runs/flow-run/{run['id']}")
        page.get_by_role("button", name="Cancel").click()
        press(page, "Confirm", "set_state")
        began = time.monotonic()
        while processes_of(run):
            assert time.monotonic() - began < 15
            time.sleep(0.2)
        gone(processes)
    return run


def test_a_run_is_cancelled_by_its_button_and_leaves_its_checkpoint_and_no_process(ui: Ui, page: "Page", cancelled):
    from playwright.sync_api import expect

    assert ui.wait(cancelled, FINAL) == "CANCELLED"
    assert Run.read(ui.folder(cancelled)).state == "cancelled"
    assert (ui.folder(cancelled) / "checkpoint").exists()
    expect(page.get_by_role("button", name="Retry")).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "ui-8-cancelled.png")


def test_a_cancelled_run_goes_on_by_another_button_and_its_summary_is_read(ui: Ui, page: "Page", cancelled):
    from playwright.sync_api import expect

    page.get_by_role("button", name="Retry").click()
    press(page, "Retry", "set_state")
    page.goto("about:blank")
    assert ui.wait(cancelled, {"COMPLETED", "FAILED"}) == "COMPLETED"
    assert Run.read(ui.folder(cancelled)).stages["pairs"] == "unchanged"
    assert json.loads((ui.folder(cancelled) / "data/evaluation/metrics.json").read_text())["aligned"]["oppose"] == 1
    page.goto(f"/runs/flow-run/{cancelled['id']}")
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "ui-3-run.png")
    page.get_by_text("Artifacts").last.click()
    expect(page.get_by_text("summary").first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "ui-4-artifacts.png")
    artifacts = {artifact["key"]: artifact["id"] for artifact in ui.call("POST", "/artifacts/filter", of(cancelled))}
    page.goto(f"/artifacts/artifact/{artifacts['summary']}")
    expect(page.get_by_text("pairs.support_ratio").first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "ui-5-summary.png")
    page.goto(f"/artifacts/artifact/{artifacts['loss']}")
    page.wait_for_function("[...document.images].some(image => image.src.includes('/.runs/') && image.naturalWidth)")
    page.screenshot(path=SHOTS / "ui-6-curve.png")
    page.goto(f"/artifacts/artifact/{artifacts['preflight']}")
    expect(page.get_by_text("parameters fit the data").first).to_be_visible(timeout=60_000)
    page.screenshot(path=SHOTS / "ui-7-preflight.png")
