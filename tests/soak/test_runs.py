"""The long tests, on the real miniature under the real server: `make soak`. On a machine with a GPU they run on it.

What they measure is written to `test-output/soak-*.json`; docs/soak.md holds what it was.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stance.config.profiles import PROFILES, compose
from stance.machine import devices
from stance.runs.record import Run
from tests.builders.prefect_ui import FINAL, Ui, field, gone, open_form, processes_of, submit, trains, working_in
from tests.builders.repository import git
from tests.builders.toy_project import dvc

pytestmark = pytest.mark.timeout(3600)

RUN = 300  # seconds that a run may take on a busy machine
GPU = shutil.which("nvidia-smi") is not None
CANCELS, QUEUED = (int(os.environ.get(name, usual)) for name, usual in (("CANCELS", "20"), ("QUEUED", "10")))


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    project = clone(tmp_path_factory.mktemp("soak"))
    if GPU:
        (project / "params.yaml").write_text(yaml.safe_dump(compose("miniature", {"model.device": "cuda"})))
    dvc(project, "repro", "--quiet")
    git(project, "commit", "--quiet", "--allow-empty", "--all", "--message", "what this machine makes of it")
    running = Ui(project)
    try:
        complete(running, beta=0.11)  # what all runs share is in the cache from here on
        yield running
    finally:
        running.stop()
    assert working_in(project) == []
    assert git(project, "status", "--porcelain") == ""


def clone(folder: Path) -> Path:
    """Return a clone of this repository with the profile `miniature`, with nothing in its cache."""
    git(Path.cwd(), "clone", "--quiet", str(Path.cwd()), str(folder / "project"))
    shutil.copy(PROFILES / "miniature.yaml", folder / "project/params.yaml")
    git(folder / "project", "commit", "--quiet", "--all", "--message", "Take the miniature")
    return folder / "project"


def complete(ui: Ui, **settings: Any) -> dict[str, Any]:
    """Run to the end, and return the run with the `seconds` that it took."""
    began = time.monotonic()
    run = ui.launch(**settings)
    assert ui.wait(run, FINAL, within=RUN) == "COMPLETED"
    return {**run, "seconds": time.monotonic() - began}


def gpu_memory() -> int:
    """Return the MiB of the GPU that are in use; 0 without one."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) if GPU else 0


def note(name: str, rows: Any) -> None:
    """Leave what was measured."""
    Path("test-output").mkdir(exist_ok=True)
    (Path("test-output") / f"soak-{name}.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


@pytest.mark.skipif(GPU, reason="the parameters of a clone are for a CPU")
def test_a_run_from_the_browser_takes_a_third_of_its_time_once_all_is_cached(tmp_path: Path):
    browsed, rows = Ui(clone(tmp_path)), {}
    try:
        for state in ("nothing cached", "all cached"):
            with browsed.page() as page:
                name = open_form(page)
                field(page, "Support Ratio").fill("0")
                began = time.monotonic()
                submit(page)
                run = browsed.named(name)
                assert browsed.wait(run, FINAL, within=480) == "COMPLETED"
                rows[state] = round(time.monotonic() - began, 1)
        evaluated = json.loads((browsed.folder(run) / "data/evaluation/metrics.json").read_text())
    finally:
        browsed.stop()
    note("browser", rows)
    assert evaluated["aligned"]["oppose"] > 0.5
    assert rows["all cached"] < rows["nothing cached"] / 3


def test_cancels_at_random_moments_leave_nothing_and_the_next_run_succeeds(ui: Ui):
    usual, before = complete(ui, beta=0.12)["seconds"], gpu_memory()
    draw, rows = random.Random(0), []
    while len(rows) < CANCELS:
        run = ui.launch(beta=0.2 + draw.random() / 10)
        ui.wait(run, {"RUNNING"})
        time.sleep(draw.uniform(0, 0.75 * usual))
        held = gpu_memory()
        ui.cancel(run)
        began = time.monotonic()
        while processes_of(run):
            assert time.monotonic() - began < 15
            time.sleep(0.1)
        seconds = time.monotonic() - began
        if ui.wait(run, FINAL) == "COMPLETED":  # it was quicker
            continue
        stages = Run.read(ui.folder(run)).stages if (ui.folder(run) / ".dvc/tmp/run.json").exists() else {}
        rows.append({"done": list(stages), "seconds": round(seconds, 1), "gpu": [held, gpu_memory()]})
        assert gpu_memory() - before < 100
    note("cancels", rows)
    assert devices.holders(devices.visible() or [devices.UNLISTED]) == {}
    assert dvc(ui.project, "status").strip().endswith("up to date.")
    complete(ui, beta=0.13)


def test_runs_queued_at_once_take_turns_and_none_is_lost(ui: Ui):
    began = time.monotonic()
    runs = [ui.launch(beta=0.14 + number / 1000, support_ratio=number % 2) for number in range(QUEUED)]
    most = ui.together(runs, within=QUEUED * RUN)
    note("queue", {"seconds": round(time.monotonic() - began), "at once": most})
    assert most == 2
    for run in runs:
        assert ui.tries(run) == 1
        metrics = json.loads((ui.folder(run) / "data/evaluation/metrics.json").read_text())
        held = "support" if run["parameters"]["settings"]["support_ratio"] else "oppose"
        assert metrics["aligned"][held] > 0.5, run["name"]


def test_runs_of_two_serving_processes_share_one_gpu(ui: Ui):
    began = time.monotonic()
    with ui.another():
        runs = [ui.launch(beta=0.16 + number / 1000) for number in range(4)]
        most = ui.together(runs, within=4 * RUN)
    asked = {"logs": {"flow_run_id": {"any_": [run["id"] for run in runs]}}}
    said = [line["message"] for line in ui.call("POST", "/logs/filter", asked)]
    waited = sorted(line for line in said if line.startswith("waiting for the GPU"))
    note("two", {"seconds": round(time.monotonic() - began), "at once": most, "waited": waited})
    assert most > 2
    assert [ui.tries(run) for run in runs] == [1] * 4
    assert bool(waited) is GPU


@pytest.mark.parametrize("ended", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_ended_in_training_resumes_and_its_adapter_is_that_of_an_undisturbed_run(ui: Ui, ended: signal.Signals):
    settings = {"beta": 0.17 + ended / 1000, "num_epoch": 4}
    run = ui.launch(**settings)
    processes = trains(ui.folder(run), "data/checkpoints/*/checkpoint-10/trainer_state.json")
    ui.process.send_signal(ended)
    began = time.monotonic()
    gone(processes)
    seconds = time.monotonic() - began
    ui.process.communicate()
    ui.process = ui.start()
    assert ui.wait(run, FINAL, within=60) in {"CRASHED", "CANCELLED"}
    ui.retry(run)
    assert ui.wait(run, {"COMPLETED", "FAILED"}, within=RUN) == "COMPLETED"
    logs = ui.call("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_ASC"})
    resumed = [line["message"] for line in logs if "resuming at step" in line["message"]]
    note(f"resume-{ended.name}", {"seconds": round(seconds, 1), "resumed": resumed})
    assert len(resumed) == 1
    if not GPU:
        undisturbed = retrained(ui.folder(run))
        assert (ui.folder(run) / "data/adapter/adapter_model.safetensors").read_bytes() == undisturbed


def retrained(folder: Path) -> bytes:
    """Return the adapter that the same workspace makes when nobody disturbs it."""
    copy = folder.parent / f"{folder.name}-again"
    shutil.copytree(folder, copy, symlinks=True)
    shutil.rmtree(copy / "data/checkpoints", ignore_errors=True)
    dvc(copy, "repro", "--quiet", "--single-item", "--force", "train")
    adapter = (copy / "data/adapter/adapter_model.safetensors").read_bytes()
    shutil.rmtree(copy)
    return adapter
