"""Runs on other machines: what `deploy/prefect.yaml` deploys, a worker in a checkout of its own takes and shares."""

import sys
import time
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.deployments import show_crashed
from flows.worker import worker
from stance import errors
from stance.runs.record import Run
from tests.builders.pool import Machine, sweep_on_pool
from tests.builders.prefect_ui import FINAL, Ui, gone, trains, working_in
from tests.builders.repository import git
from tests.builders.toy_project import training_held

pytestmark = pytest.mark.timeout(600)

TAIPEI = ZoneInfo("Asia/Taipei")


@pytest.fixture(scope="module")
def machine(ui: Ui) -> Iterator[Machine]:
    running = Machine(ui, {"url": ui.project.parent / "store"})
    running.deploy(ui.project)
    running.start()
    yield running
    running.stop()
    (ui.project / ".dvc/config.local").unlink()
    assert working_in(running.folder) == []


def test_a_worker_runs_in_its_own_checkout_and_its_results_are_restored_elsewhere(ui: Ui, machine: Machine):
    settings = {"support_ratio": 0.125, "num_epoch": 2}  # of which nothing is made in this project
    there = ui.launch(on="pool", **settings)
    assert ui.wait(there, FINAL) == "COMPLETED"
    assert Run.read(machine.workspace(there)).stages["train"].startswith("ran: train.num_epoch 3 → 2")
    until = time.monotonic() + 30  # the server shows the states of tasks a little later than that of the run
    while (pushed := ui.tasks(there).get("push")) is None and time.monotonic() < until:
        time.sleep(0.5)
    assert pushed["type"] == "COMPLETED"
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
        machine.kill()
        gone(processes)
    machine.start()
    assert ui.wait(run, FINAL) == "CRASHED"
    ui.retry(run)
    assert ui.wait(run, {"COMPLETED", "FAILED"}) == "COMPLETED"


def test_a_grid_is_made_by_two_workers_and_the_run_of_a_killed_one_by_the_other_once(ui: Ui, machine: Machine):
    second = Machine(ui, {"url": ui.project.parent / "store"}, "second", at_once=1)
    (ui.project / "grids/wide.yaml").write_text("{pairs.support_ratio: [0.2, 0.4, 0.6], train.num_epoch: [9]}\n")
    git(ui.project, "add", "grids/wide.yaml")
    git(ui.project, "commit", "--quiet", "--message", "a commit that no other machine has")
    second.start()
    with training_held(machine.folder, 9), training_held(second.folder, 9):
        sweep = sweep_on_pool(machine, ui.project, "wide")
        [run] = taken_by(second, 1)
        others = taken_by(machine, 2)
        processes = trains(second.folder / ".runs" / run)
        second.kill()
        gone(processes)
        crashed = {"state": {"type": "CRASHED"}, "force": True}  # as deploy/automations.yaml does after some minutes
        ui.call("POST", f"/flow_runs/{ui.named(run)['id']}/set_state", crashed)
        (machine.folder / ".runs/hold-9").unlink()
        taken_by(machine, 3)
        (machine.folder / ".runs/hold-9").touch()  # the third run is under way as long as the killed worker is away
        second.start()
    printed, _ = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, printed
    assert f"{run} crashed, and waits for a worker again" in printed
    second.stop()
    assert {name: record.state for name, record in second.runs().items()} == {run: "crashed"}
    made = {name: record for name, record in machine.runs().items() if name.startswith("wide-")}
    assert {name: (record.state, record.tries) for name, record in made.items()} == {
        **dict.fromkeys(others, ("completed", 1)),
        run: ("completed", 2),
    }
    assert {record.commit for record in made.values()} == {git(ui.project, "rev-parse", "HEAD")}
    ratios = [Run.read(ui.project / ".runs" / name).overrides["pairs.support_ratio"] for name in made]
    assert sorted(ratios) == [0.2, 0.4, 0.6]
    assert "missing" not in (ui.project / "data/compare/wide/index.html").read_text("utf-8")
    assert git(ui.project, "status", "--porcelain") == ""


def taken_by(machine: Machine, count: int) -> list[str]:
    """Wait until a machine has taken so many runs of the grid, and return their names."""
    until = time.monotonic() + 120
    while len(names := [name for name in machine.runs() if name.startswith("wide-")]) < count:
        assert time.monotonic() < until, machine.log.read_text()
        time.sleep(0.5)
    return names


def test_sweeping_up_spares_a_run_that_was_asked_for_again(ui: Ui):
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    deployment = ui.call("GET", "/deployments/name/align/align")["id"]
    run = ui.call("POST", f"/deployments/{deployment}/create_flow_run", {"state": later})  # nobody takes it
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{ui.port}/api"}):
        show_crashed({UUID(run["id"]): 1})
        assert ui.state(run) == "SCHEDULED"
        ui.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": "RUNNING"}, "force": True})
        show_crashed({UUID(run["id"]): 1})
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
