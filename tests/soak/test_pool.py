"""Two workers with checkouts and caches of their own, a remote on an S3 server, and what breaks under them.

The runs are those of the toy project, so the figures are what the scaling itself costs. They are written to
`test-output/soak-pool-*.json`; docs/scale.md has them. The server is that of `tests/builders/s3.py`.
"""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml

from stance.runs.record import Run
from tests.builders.pool import Machine, sweep_on_pool
from tests.builders.prefect_ui import Ui, gone, trains, working_in
from tests.builders.repository import git
from tests.builders.s3 import MISSING, Bucket
from tests.builders.toy_project import copy, training_held

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

AWAY = 90
"""Seconds for which the remote, or the Prefect server, is away."""
DETECTED = 75
"""Seconds without a heartbeat after which a run counts as crashed. Users have 180; heartbeats come each 30."""


class Rack:
    """A Prefect server, a bucket, and two machines with a worker each that takes one run at a time."""

    def __init__(self, toy: Path, folder: Path) -> None:
        self.bucket = Bucket(folder / "s3")
        self.ui = Ui(copy(toy, folder))
        self.project = self.ui.project
        self.machines = [Machine(self.ui, self.bucket.remote, name, at_once=1) for name in ("left", "right")]
        self.machines[0].deploy(self.project)
        automations = yaml.safe_load(Path("deploy/automations.yaml").read_text(encoding="utf-8"))
        automations["automations"][0]["trigger"]["within"] = DETECTED
        file = folder / "automations.yaml"
        file.write_text(yaml.safe_dump(automations), encoding="utf-8")
        self.machines[0].prefect(self.project, "automation", "create", "--from-file", str(file))
        for machine in self.machines:
            machine.start()

    def commit(self, grid: str, ratios: int, epochs: int) -> None:
        """Commit a grid of so many runs."""
        values = [round(0.001 + number / 1000, 3) for number in range(ratios)]
        text = yaml.safe_dump({"pairs.support_ratio": values, "train.num_epoch": [epochs]})
        (self.project / f"grids/{grid}.yaml").write_text(text, encoding="utf-8")
        git(self.project, "add", "grids")
        git(self.project, "commit", "--quiet", "--message", grid)

    def made(self, grid: str) -> list[dict[str, Run]]:
        """Return the records of the runs of a grid on each machine."""
        return [
            {name: run for name, run in machine.runs().items() if name.startswith(f"{grid}-")}
            for machine in self.machines
        ]

    def swept(self, sweep: Any, grid: str, count: int, within: float) -> tuple[str, list[list[Run]]]:
        """Wait for a sweep; check that each run is complete on one machine only; return the output and the records."""
        printed, _ = sweep.communicate(timeout=within)
        assert sweep.returncode == 0, printed
        assert "Traceback" not in printed
        made = self.made(grid)
        complete = [[run for run in runs.values() if run.state == "completed"] for runs in made]
        names = [run.name for runs in complete for run in runs]
        assert sorted(names) == sorted(set(names))
        assert len(names) == count
        assert all((self.project / ".runs" / name / "data/evaluation/metrics.json").exists() for name in names)
        assert (self.project / f"data/compare/{grid}/index.html").exists()
        assert self.printed_tracebacks() == []
        return printed, complete

    def printed_tracebacks(self) -> list[str]:
        """Return the runs whose log in the UI has a traceback."""
        logs = self.ui.call("POST", "/logs/filter", {"logs": {"level": {"ge_": 30}}, "limit": 200})
        return [line["message"] for line in logs if "Traceback" in line["message"]]

    def pushes(self, count: int) -> list[float]:
        """Return the seconds of the last pushes, the oldest first."""
        query = {"task_runs": {"name": {"any_": ["push"]}}, "sort": "END_TIME_DESC", "limit": count}
        return [task["total_run_time"] for task in reversed(self.ui.call("POST", "/task_runs/filter", query))]

    def wait_until_taken(self, grid: str, count: int) -> None:
        """Wait until so many runs of a grid are under way or complete on the two machines."""
        until = time.monotonic() + 300
        while sum(map(len, self.made(grid))) < count:
            assert time.monotonic() < until, self.machines[0].log.read_text()
            time.sleep(0.5)


@pytest.fixture(scope="module")
def rack(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    running = Rack(toy, tmp_path_factory.mktemp("rack"))
    yield running
    for machine in running.machines:
        machine.stop()
    running.ui.stop()
    running.bucket.kill()
    assert [working_in(machine.folder) for machine in running.machines] == [[], []]


def note(name: str, figures: dict[str, Any]) -> None:
    """Leave what was measured."""
    Path("test-output").mkdir(exist_ok=True)
    (Path("test-output") / f"soak-pool-{name}.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")


def first_and_last(values: list[float]) -> list[float]:
    """Return the medians of the first ten and of the last ten values."""
    return [round(median(values[:10]), 1), round(median(values[-10:]), 1)]


def resumed(printed: str) -> list[str]:
    """Return the sentences of a sweep about trouble."""
    return re.findall(r"crashed, and waits|does not answer|must wait", printed)


@pytest.mark.parametrize("count", [10, 50])
def test_a_grid_is_filled_by_both_workers(rack: Rack, count: int):
    rack.commit(f"wide{count}", count, epochs=2)
    began = time.monotonic()
    sweep = sweep_on_pool(rack.machines[0], rack.project, f"wide{count}")
    _, complete = rack.swept(sweep, f"wide{count}", count, within=count * 60)
    seconds = round(time.monotonic() - began)
    assert all(len(runs) > count / 4 for runs in complete)
    files = sum(path.stat().st_size for path in (rack.bucket.folder / "files").rglob("*") if path.is_file())
    database = (rack.ui.project.parent / "prefect/prefect.db").stat().st_size
    runs = sorted((run for runs in complete for run in runs), key=lambda run: run.created)
    work = [sum(run.seconds.values()) for run in runs]
    note(
        f"{count}",
        {
            "runs": [len(runs) for runs in complete],
            "seconds": seconds,
            "median seconds of the stages of a run, first and last ten": first_and_last(work),
            "median seconds of a push, first and last ten": first_and_last(rack.pushes(count)),
            "bucket MB": round(files / 1e6, 1),
            "database MB": round(database / 1e6, 1),
        },
    )


def test_the_run_of_a_killed_worker_is_finished_by_the_other(rack: Rack):
    left, right = rack.machines
    rack.commit("killed", 6, epochs=40)
    began = time.monotonic()
    with training_held(left.folder, 40), training_held(right.folder, 40):
        sweep = sweep_on_pool(left, rack.project, "killed")
        rack.wait_until_taken("killed", 2)
        [run] = rack.made("killed")[1]
        processes = trains(right.folder / ".runs" / run)
        time.sleep(35)  # so that a heartbeat has come
        right.kill()
        killed = time.monotonic()
        gone(processes)
    while rack.ui.state(rack.ui.named(run)) == "RUNNING":
        assert time.monotonic() - killed < 400
        time.sleep(1)
    seen = round(time.monotonic() - killed)
    printed, _ = rack.swept(sweep, "killed", 6, within=600)
    assert f"{run} crashed, and waits for a worker again" in printed
    assert rack.made("killed")[0][run].state == "completed"
    right.start()
    time.sleep(10)
    assert rack.ui.state(rack.ui.named(run)) == "COMPLETED"
    assert right.runs()[run].state == "crashed"
    note("killed", {"seen after": seen, "seconds": round(time.monotonic() - began)})


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_remote_that_does_not_answer_is_waited_for(rack: Rack, how: str):
    rack.commit(how, 6, epochs=3)
    began = time.monotonic()
    sweep = sweep_on_pool(rack.machines[0], rack.project, how)
    rack.wait_until_taken(how, 3)
    getattr(rack.bucket, how)()
    time.sleep(AWAY)
    before = [run.name for runs in rack.made(how) for run in runs.values() if run.state == "completed"]
    {"kill": rack.bucket.start, "freeze": rack.bucket.thaw}[how]()
    back = time.monotonic()
    printed, complete = rack.swept(sweep, how, 6, within=900)
    tries = [run.tries for runs in complete for run in runs]
    assert tries == [1] * 6
    states = rack.ui.call("POST", "/flow_runs/filter", {"flow_runs": {"name": {"like_": f"{how}-"}}})
    assert {state["state"]["type"] for state in states} == {"COMPLETED"}
    note(
        f"remote-{how}",
        {
            "away": AWAY,
            "complete before it was back": len(before),
            "seconds after it was back": round(time.monotonic() - back),
            "seconds": round(time.monotonic() - began),
            "said": sorted(set(resumed(printed))),
        },
    )


def test_a_restart_of_the_prefect_server_loses_nothing(rack: Rack):
    rack.commit("restart", 6, epochs=60)
    began = time.monotonic()
    sweep = sweep_on_pool(rack.machines[0], rack.project, "restart")
    rack.wait_until_taken("restart", 3)
    rack.ui.stop(signal.SIGKILL)
    time.sleep(AWAY / 3)
    rack.ui.process = rack.ui.start()
    back = time.monotonic()
    printed, complete = rack.swept(sweep, "restart", 6, within=900)
    assert [run.tries for runs in complete for run in runs] == [1] * 6
    note(
        "restart",
        {
            "away": round(back - began),
            "seconds": round(time.monotonic() - began),
            "said": sorted(set(resumed(printed))),
        },
    )
