"""`make ui` in a project, a client of its server, and what is left of a run in the process table."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil

from flows.server import prefect_settings
from stance.machine.ports import free_port
from stance.machine.supervisor import guarded, release
from tests.builders.pages import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

SHOTS = Path("test-output")
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
SOONER = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}
"""Seconds between two looks for runs to schedule; Prefect's default is 60."""
PATIENCE = 90
"""Seconds for one answer of the server, which itself waits up to 60 for its database when that is busy."""


class Ui:
    """`make ui` in a project, and a client of its server."""

    def __init__(self, project: Path) -> None:
        self.port = free_port()
        self.project = project
        home = {"PREFECT_HOME": str(project.parent / "prefect"), "PREFECT_API_URL": ""}
        self.environment = {**os.environ, **home, **SOONER, "PORT": str(self.port)}
        self.process = self.start()

    def start(self) -> "subprocess.Popen[str]":
        """Start it and wait until it is up."""
        command = [sys.executable, "-m", "flows.server"]
        process = subprocess.Popen(
            command, cwd=self.project, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        said = process.stdout.readline()
        if f"up: http://127.0.0.1:{self.port}" not in said:
            process.kill()
            raise AssertionError(said)
        return process

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it."""
        self.process.send_signal(number)
        self.process.communicate(timeout=60)

    @contextmanager
    def another(self) -> Iterator[None]:
        """Serve the same deployments from a second process."""
        settings = {**self.environment, **prefect_settings(f"http://127.0.0.1:{self.port}")}
        with (self.project.parent / "another.log").open("w") as log:
            process = guarded(
                [sys.executable, "-m", "flows.deployments"], cwd=self.project, env=settings, stdout=log, stderr=log
            )
        try:
            yield
        finally:
            release(process)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the server; on a busy machine a question without effects may be asked again."""
        data = None if body is None else json.dumps(body).encode()
        asked = Request(f"http://127.0.0.1:{self.port}/api{path}", data, {"content-type": "application/json"})
        asked.method = method
        waits = 2 if method == "GET" else 0
        while True:
            try:
                with urlopen(asked, timeout=PATIENCE) as answer:
                    return json.loads(answer.read() or "null")
            except HTTPError as error:
                if error.code != 503:  # the database is busy; Prefect's own client waits as well
                    raise
                time.sleep(1)
            except TimeoutError:
                if not waits:
                    raise
                waits -= 1

    @contextmanager
    def page(self) -> Iterator["Page"]:
        """Open a page of the server in the system's Chromium; screenshots go into `SHOTS`."""
        SHOTS.mkdir(exist_ok=True)
        with chromium() as browser:
            page = browser.new_page(
                viewport={"width": 1300, "height": 1500},
                base_url=f"http://127.0.0.1:{self.port}",
                reduced_motion="reduce",
            )
            page.set_default_timeout(60_000)
            yield page

    def named(self, name: str) -> dict[str, Any]:
        """Return the run of a name."""
        [run] = self.call("POST", "/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return dict(run)

    def launch(self, *, on: str = "align", stage_minutes: float = 0, **settings: Any) -> dict[str, Any]:
        """Start a run of the flow `align` as the UI does."""
        return self.create(f"align/{on}", settings=settings, stage_minutes=stage_minutes)

    def create(self, deployment: str, **parameters: Any) -> dict[str, Any]:
        """Start a run of a deployment with some parameters, and return what the server says of it."""
        number = self.call("GET", f"/deployments/name/{deployment}")["id"]
        return dict(self.call("POST", f"/deployments/{number}/create_flow_run", {"parameters": parameters}))

    def tasks(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the state of each task of a run, the first one first."""
        found = self.call("POST", "/task_runs/filter", {**of(run), "sort": "END_TIME_DESC"})
        return {task["name"]: task["state"] for task in reversed(found)}

    def artifacts(self, run: dict[str, Any]) -> dict[str, Any]:
        """Return what a run shows, by key."""
        return {artifact["key"]: artifact["data"] for artifact in self.call("POST", "/artifacts/filter", of(run))}

    def together(self, runs: list[dict[str, Any]], within: float) -> int:
        """Wait until all runs are completed, and return how many ran at once at most."""
        until, most = time.monotonic() + within, 0
        while (states := [self.state(run) for run in runs]) != ["COMPLETED"] * len(runs):
            assert not {"FAILED", "CRASHED", "CANCELLED"} & set(states)
            assert time.monotonic() < until, states
            most = max(most, states.count("RUNNING"))
            time.sleep(0.2)
        return most

    def training(self, runs: list[dict[str, Any]], number: int, within: float = 180) -> int:
        """Wait until so many of the runs train, and return how many of them run by then."""
        until = time.monotonic() + within
        while sum((self.folder(run) / "checkpoint").exists() for run in runs) < number:
            assert time.monotonic() < until
            time.sleep(0.2)
        return [self.state(run) for run in runs].count("RUNNING")

    def tries(self, run: dict[str, Any]) -> int:
        """Return how often a run was begun."""
        return int(self.call("GET", f"/flow_runs/{run['id']}")["run_count"])

    def state(self, run: dict[str, Any]) -> str:
        """Return what has become of a run."""
        return str(self.call("GET", f"/flow_runs/{run['id']}")["state"]["type"])

    def wait(self, run: dict[str, Any], states: set[str], within: float = 240) -> str:
        """Wait until a run is in one of the states."""
        until = time.monotonic() + within
        while (state := self.state(run)) not in states:
            assert time.monotonic() < until, f"{run['name']} is {state}"
            time.sleep(0.5)
        return state

    def folder(self, run: dict[str, Any]) -> Path:
        """Return a run's workspace."""
        return self.project / ".runs" / str(run["name"])

    def cancel(self, run: dict[str, Any]) -> None:
        """Cancel a run as the UI does."""
        self.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})

    def retry(self, run: dict[str, Any]) -> None:
        """Ask for a run once more."""
        self.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": "SCHEDULED"}, "force": True})

    def trains(self, run: dict[str, Any]) -> list[int]:
        """Wait until a run trains, and return the processes that work in its workspace."""
        return trains(self.folder(run))


def open_form(page: "Page") -> str:
    """Open the launch form by its buttons, and return the name that it proposes for the run."""
    page.goto("/deployments")
    page.get_by_role("link", name="align").first.click()
    page.wait_for_url("**/deployments/deployment/*")
    page.get_by_role("button", name="Run", exact=True).click()
    page.screenshot(path=SHOTS / "ui-1-deployment.png")
    page.get_by_role("link", name="Custom run").click()
    return field(page, "Run Name").input_value()


def field(page: "Page", label: str) -> "Locator":
    """Return the field of the launch form below a label."""
    return page.locator(f"xpath=//label[contains(.,'{label}')]/following::input[1]").first


def submit(page: "Page") -> None:
    """Send the launch form, and wait until its run is there."""
    press(page, "Submit", "create_flow_run")
    page.wait_for_url("**/deployments/deployment/*?*")


def press(page: "Page", name: str, sends: str) -> None:
    """Press the last button of a name until the server has taken what it sends; a busy machine may miss a press.

    The server answers 503, *try again*, while other work writes to its SQLite file; a user then presses again.
    """
    from playwright.sync_api import TimeoutError as Missed

    statuses: list[int] = []
    for _ in range(5):
        with suppress(Missed):
            statuses.append(_pressed(page, name, sends))
        if statuses[-1:] and statuses[-1] < 300:
            return
    raise AssertionError(f"{name}: the server answered {statuses}")


def _pressed(page: "Page", name: str, sends: str) -> int:
    """Press, and return the HTTP status by which the server answers."""
    with page.expect_response(f"**/{sends}", timeout=30_000) as response:
        page.get_by_role("button", name=name).last.click()
    return int(response.value.status)


def trains(folder: Path, checkpoint: str = "checkpoint") -> list[int]:
    """Wait until the run in a workspace has a checkpoint, and return the processes that work there."""
    until = time.monotonic() + 120
    while not any(folder.glob(checkpoint)):
        assert time.monotonic() < until
        time.sleep(0.2)
    return working_in(folder)


def gone(pids: list[int], within: float = 15) -> None:
    """Wait until processes have ended, and fail after some seconds."""
    until = time.monotonic() + within
    while left := [pid for pid in pids if psutil.pid_exists(pid)]:
        assert time.monotonic() < until, left
        time.sleep(0.2)


def processes_of(run: dict[str, Any]) -> list[int]:
    """Return all processes of a run: that of its flow, and what has come from it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run["id"]:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


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


def of(run: dict[str, Any]) -> dict[str, Any]:
    return {"flow_runs": {"id": {"any_": [run["id"]]}}}
