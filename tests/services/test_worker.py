"""Runs on other machines: what `deploy/prefect.yaml` deploys, a worker in a checkout of its own takes and shares."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.deployments import show_crashed
from flows.worker import worker
from stance import errors
from stance.runs.record import Run
from tests.builders.prefect_ui import FINAL, Ui, gone, trains, working_in
from tests.builders.repository import git
from tests.builders.toy_project import training_held

pytestmark = pytest.mark.timeout(600)

POOL = ["work-pool", "create", "stance", "--type", "process"]
TAIPEI = ZoneInfo("Asia/Taipei")
DEPLOY = ["--no-prompt", "deploy", "--all", "--prefect-file", "deploy/prefect.yaml"]


class Machine:
    """Another checkout of a project, with a cache of its own, and a worker in it."""

    def __init__(self, ui: Ui) -> None:
        self.folder = ui.project.parent / "machine" / "checkout"
        git(ui.project, "clone", "--quiet", str(ui.project), str(self.folder))
        for checkout in (ui.project, self.folder):
            write_remote(checkout, ui.project.parent / "store")
        home = {"PREFECT_HOME": str(ui.project.parent / "machine" / "prefect"), "POOL": "stance"}
        self.environment = {**os.environ, **home, "PREFECT_API_URL": f"http://127.0.0.1:{ui.port}/api"}
        self.prefect(ui.project, *POOL)
        self.prefect(ui.project, *DEPLOY)
        self.start()

    def prefect(self, folder: Path, *command: str) -> None:
        """Type a command of Prefect's in a folder."""
        whole = [sys.executable, "-m", "prefect", *command]
        done = subprocess.run(whole, cwd=folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start a worker."""
        command = [sys.executable, "-m", "flows.worker"]
        with (self.folder.parent / "worker.log").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def workspace(self, run: dict[str, object]) -> Path:
        """Return a run's workspace on this machine."""
        return self.folder / ".runs" / str(run["name"])


def write_remote(project: Path, store: Path) -> None:
    """Let a folder be DVC's default remote of a checkout."""
    lines = ("[core]", "    remote = store", "['remote \"store\"']", f"    url = {store}")
    (project / ".dvc/config.local").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def machine(ui: Ui) -> Iterator[Machine]:
    running = Machine(ui)
    yield running
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(timeout=60) == 0
    (ui.project / ".dvc/config.local").unlink()
    assert working_in(running.folder) == []


def test_a_worker_runs_in_its_own_checkout_and_its_results_are_restored_elsewhere(ui: Ui, machine: Machine):
    settings = {"support_ratio": 0.125, "num_epoch": 2}  # of which nothing is made in this project
    there = ui.launch(on="pool", **settings)
    assert ui.wait(there, FINAL) == "COMPLETED"
    assert Run.read(machine.workspace(there)).stages["train"].startswith("ran: train.num_epoch 3 → 2")
    assert ui.tasks(there)["push"]["type"] == "COMPLETED"
    assert not ui.folder(there).exists()
    here = ui.launch(**settings)
    assert ui.wait(here, FINAL) == "COMPLETED"
    outcomes = {said.partition(":")[0] for said in Run.read(ui.folder(here)).stages.values()}
    assert outcomes == {"restored"}
    adapter = "data/adapter/weights.json"
    assert (ui.folder(here) / adapter).read_bytes() == (machine.workspace(there) / adapter).read_bytes()


def test_a_killed_worker_leaves_nothing_and_the_next_one_lets_the_run_go_on(ui: Ui, machine: Machine):
    with training_held(machine.folder, 8):
        run = ui.launch(on="pool", num_epoch=8, seed=7)
        processes = trains(machine.workspace(run))
        machine.process.kill()
        gone(processes)
    machine.process.wait()
    machine.start()
    assert ui.wait(run, FINAL) == "CRASHED"
    ui.retry(run)
    assert ui.wait(run, {"COMPLETED", "FAILED"}) == "COMPLETED"


def test_sweeping_up_spares_a_run_that_was_asked_for_again(ui: Ui):
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    deployment = ui.call("GET", "/deployments/name/align/align")["id"]
    run = ui.call("POST", f"/deployments/{deployment}/create_flow_run", {"state": later})  # nobody takes it
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{ui.port}/api"}):
        show_crashed(UUID(run["id"]))
        assert ui.state(run) == "SCHEDULED"
        ui.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": "RUNNING"}, "force": True})
        show_crashed(UUID(run["id"]))
        assert ui.state(run) == "CRASHED"


def test_a_cancelled_run_on_a_worker_leaves_nothing(ui: Ui, machine: Machine):
    with training_held(machine.folder, 30):
        run = ui.launch(on="pool", num_epoch=30)
        processes = trains(machine.workspace(run))
        ui.cancel(run)
        gone(processes)
    assert ui.wait(run, FINAL) == "CANCELLED"


def test_the_nightly_runs_are_scheduled_once_the_schedule_is_switched_on(ui: Ui, machine: Machine):
    nightly = ui.call("GET", "/deployments/name/align/nightly")
    [schedule] = nightly["schedules"]
    machine.prefect(ui.project, "deployment", "schedule", "resume", "align/nightly", schedule["id"])
    planned = {"deployments": {"id": {"any_": [nightly["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
    until = time.monotonic() + 90
    while not (runs := ui.call("POST", "/flow_runs/filter", planned)):
        assert time.monotonic() < until
        time.sleep(1)
    assert {run["state"]["type"] for run in runs} == {"SCHEDULED"}
    assert {run["parameters"]["stage_minutes"] for run in runs} == {60}
    hours = {datetime.fromisoformat(run["expected_start_time"]).astimezone(TAIPEI).strftime("%H:%M") for run in runs}
    assert hours == {"03:00"}


@pytest.mark.parametrize(
    ("server", "sentence"),
    [
        ("http://127.0.0.1:9/api", "no Prefect server answers at http://127.0.0.1:9/api; start it"),
        (None, "PREFECT_API_URL is not set; name the server"),
    ],
    ids=["away", "not named"],
)
def test_a_worker_without_a_server_says_what_to_do(server, sentence, monkeypatch, capsys):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    if server:
        monkeypatch.setenv("PREFECT_API_URL", server)
    with pytest.raises(SystemExit) as ended:
        errors.run(lambda: sys.exit(worker("stance")))
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {sentence}")
