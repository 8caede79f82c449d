"""`make ui` with the real server: runs start from it, are cancelled, killed and taken up again, and leave nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from flows.workspace import Run
from tests.repository import git
from tests.toy_project import make

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Ui:
    """`make ui` in a project, and a client of its server."""

    def __init__(self, project: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.project = project
        home = {"PREFECT_HOME": str(project.parent / "prefect"), "PREFECT_API_URL": ""}
        self.environment = {**os.environ, **home, "PORT": str(self.port)}
        self.process = self.start()

    def start(self) -> "subprocess.Popen[str]":
        """Start it and wait until it is up."""
        command = [sys.executable, "-m", "flows.ui"]
        process = subprocess.Popen(
            command, cwd=self.project, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        assert f"up: http://127.0.0.1:{self.port}" in process.stdout.readline()
        return process

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it."""
        self.process.send_signal(number)
        self.process.communicate(timeout=60)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the server."""
        data = None if body is None else json.dumps(body).encode()
        asked = Request(f"http://127.0.0.1:{self.port}/api{path}", data, {"content-type": "application/json"})
        asked.method = method
        with urlopen(asked, timeout=30) as answer:
            return json.loads(answer.read() or "null")

    def launch(self, **settings: Any) -> dict[str, Any]:
        """Start a run as the UI does."""
        deployment = self.call("GET", "/deployments/name/align/align")["id"]
        body = {"parameters": {"settings": settings}}
        return dict(self.call("POST", f"/deployments/{deployment}/create_flow_run", body))

    def state(self, run: dict[str, Any]) -> str:
        """Return what has become of a run."""
        return str(self.call("GET", f"/flow_runs/{run['id']}")["state"]["type"])

    def wait(self, run: dict[str, Any], states: set[str], within: float = 120) -> str:
        """Wait until a run is in one of the states."""
        until = time.monotonic() + within
        while (state := self.state(run)) not in states:
            assert time.monotonic() < until, f"{run['name']} is {state}"
            time.sleep(0.5)
        return state

    def folder(self, run: dict[str, Any]) -> Path:
        """Return a run's workspace."""
        return self.project / ".runs" / str(run["name"])

    def trains(self, run: dict[str, Any]) -> list[int]:
        """Wait until a run trains, and return the processes that work in its workspace."""
        until = time.monotonic() + 120
        while not (self.folder(run) / "checkpoint").exists():
            assert time.monotonic() < until
            time.sleep(0.2)
        return working_in(self.folder(run))


def working_in(folder: Path) -> list[int]:
    """Return the processes whose working folder is a workspace."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    running = Ui(make(tmp_path_factory.mktemp("ui") / "project"))
    yield running
    running.stop()
    assert working_in(running.project) == []


def test_a_run_ends_in_a_workspace_and_the_tree_is_as_it_was(ui: Ui):
    before = git(ui.project, "status", "--porcelain")
    run = ui.launch(support_ratio=0.25, num_epoch=1)
    assert ui.wait(run, FINAL) == "COMPLETED"
    metrics = json.loads((ui.folder(run) / "data/evaluation/metrics.json").read_text())
    assert metrics["aligned"]["support"] == 0.25
    assert git(ui.project, "status", "--porcelain") == before


def test_the_tasks_are_the_stages_and_say_why_they_ran(ui: Ui):
    run = ui.launch(support_ratio=0.75, num_epoch=1)
    assert ui.wait(run, FINAL) == "COMPLETED"
    tasks = ui.call("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}, "sort": "END_TIME_DESC"})
    states = {task["name"]: task["state"] for task in reversed(tasks)}
    assert list(states) == ["preflight", "pairs", "train", "evaluate"]
    assert states["pairs"]["name"] == "Ran"
    assert "pairs.support_ratio" in states["pairs"]["message"]
    assert "→ 0.75" in states["pairs"]["message"]


def test_a_run_leaves_its_summary_answers_and_progress_as_artifacts(ui: Ui):
    run = ui.launch(support_ratio=0.5, num_epoch=1)
    assert ui.wait(run, FINAL) == "COMPLETED"
    found = ui.call("POST", "/artifacts/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    artifacts = {artifact["key"]: artifact["data"] for artifact in found}
    assert artifacts.keys() == {"stages", "summary", "answers", "report", "train-progress"}
    assert "| pairs.support_ratio | 0.5 |" in artifacts["summary"]
    assert "| adherence | passed | all | most |" in artifacts["summary"]
    assert artifacts["train-progress"] == 100


@pytest.mark.parametrize(("field", "value"), [("support_ratio", 2), ("beta", -1), ("rank", 8)])
def test_a_wrong_value_is_refused_at_once_with_the_name_of_its_field(ui: Ui, field: str, value: float):
    with pytest.raises(HTTPError) as refusal:
        ui.launch(**{field: value})
    assert refusal.value.code == 409 or refusal.value.code == 422
    assert field in refusal.value.read().decode()


def test_a_failed_stage_fails_the_run_with_its_name(ui: Ui):
    run = ui.launch(seed=13)
    assert ui.wait(run, FINAL) == "FAILED"
    recorded = Run.read(ui.folder(run))
    assert (recorded.state, set(recorded.stages)) == ("failed", {"pairs"})
    assert "stage train failed" in str(recorded.problem)


def test_cancelling_a_run_leaves_none_of_its_processes_after_15_seconds(ui: Ui):
    run = ui.launch(num_epoch=300)
    assert len(ui.trains(run)) >= 3  # guard, DVC, the stage, and its child in a session of its own
    ui.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    cancelled = time.monotonic()
    while working_in(ui.folder(run)):
        assert time.monotonic() - cancelled < 15
        time.sleep(0.2)
    assert ui.wait(run, FINAL) == "CANCELLED"
    assert Run.read(ui.folder(run)).state == "cancelled"
    assert (ui.folder(run) / "checkpoint").exists()


def test_a_second_ui_says_that_it_is_up(ui: Ui):
    again = subprocess.run(
        [sys.executable, "-m", "flows.ui"], cwd=ui.project, env=ui.environment, capture_output=True, text=True
    )
    assert (again.returncode, again.stdout) == (0, f"already up: http://127.0.0.1:{ui.port}\n")


def test_a_port_of_another_program_is_refused_in_a_sentence(ui: Ui):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        environment = {**ui.environment, "PORT": str(other.getsockname()[1])}
        refused = subprocess.run(
            [sys.executable, "-m", "flows.ui"], cwd=ui.project, env=environment, capture_output=True, text=True
        )
    assert refused.returncode == 1
    assert "is in use by another program; end it, or take another" in refused.stderr


def test_a_killed_run_is_marked_crashed_by_the_next_start_and_goes_on_when_retried(ui: Ui):
    run = ui.launch(support_ratio=1, num_epoch=8, seed=99)
    processes = ui.trains(run)
    ui.process.kill()
    killed = time.monotonic()
    while any(psutil.pid_exists(pid) for pid in processes):
        assert time.monotonic() - killed < 15
        time.sleep(0.2)
    ui.process.communicate()
    ui.process = ui.start()
    assert ui.wait(run, FINAL) == "CRASHED"
    assert Run.read(ui.folder(run)).state == "crashed"
    ui.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": "SCHEDULED"}, "force": True})
    assert ui.wait(run, {"COMPLETED", "FAILED"}) == "COMPLETED"
    assert Run.read(ui.folder(run)).stages["pairs"] == "unchanged"


@pytest.mark.browser
def test_a_run_is_started_from_the_form_and_its_summary_read(ui: Ui):
    """Screenshots of every step are left in `test-output/`."""
    from playwright.sync_api import Page, expect, sync_playwright

    shots = Path("test-output")
    shots.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page: Page = browser.new_page(viewport={"width": 1300, "height": 1500})
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{ui.port}/deployments")
        page.get_by_role("link", name="align").first.click()
        page.wait_for_url("**/deployments/deployment/*")
        page.get_by_role("button", name="Run", exact=True).click()
        page.screenshot(path=shots / "ui-1-deployment.png")
        page.get_by_role("link", name="Custom run").click()
        name = page.locator("xpath=//label[contains(.,'Run Name')]/following::input[1]").first.input_value()
        field = page.locator("xpath=//label[contains(.,'Support Ratio')]/following::input[1]").first
        field.fill("2")
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_text("2 is greater than the maximum of 1").first).to_be_visible()
        page.screenshot(path=shots / "ui-2-refused.png")
        field.fill("0")
        page.get_by_role("button", name="Submit").click()
        page.wait_for_url("**/deployments/deployment/*?*")
        [run] = ui.call("POST", "/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        page.goto(f"http://127.0.0.1:{ui.port}/runs/flow-run/{run['id']}")
        assert ui.wait(run, FINAL) == "COMPLETED"
        expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=60_000)
        page.screenshot(path=shots / "ui-3-run.png")
        page.get_by_text("Artifacts").last.click()
        expect(page.get_by_text("summary").first).to_be_visible()
        page.screenshot(path=shots / "ui-4-artifacts.png")
        [summary] = [a for a in ui.call("POST", "/artifacts/filter", of(run)) if a["key"] == "summary"]
        page.goto(f"http://127.0.0.1:{ui.port}/artifacts/artifact/{summary['id']}")
        expect(page.get_by_text("pairs.support_ratio").first).to_be_visible()
        page.screenshot(path=shots / "ui-5-summary.png")
        browser.close()
    assert json.loads((ui.folder(run) / "data/evaluation/metrics.json").read_text())["aligned"]["oppose"] == 1


def of(run: dict[str, Any]) -> dict[str, Any]:
    return {"flow_runs": {"id": {"any_": [run["id"]]}}}
