"""The Prefect tasks of an alignment: the pre-flight, one task per stage, and the push to the DVC remote."""

import json
import os
import random
import re
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, State

from stance.errors import InputError, Unreachable
from stance.machine import devices, processes
from stance.machine.supervisor import PEAK
from stance.runs import shared, stages
from stance.runs.fork_client import OWNER
from stance.runs.preparation import in_turn, prepare
from stance.runs.record import LOG
from stance.runs.stages import Outcome

PYTHON = Path(__file__).parents[1] / "tasks/python"
"""Starts a fork that has its packages already, if a run of this process has started the server of forks."""
STEP = re.compile(r"((?:step|sequence) (\d+)/(\d+)) .* (\d+) s left")


def unreachable(_task: Any, _run: Any, failed: State[Any]) -> bool:
    """Did a task fail because a server did not answer? Only such a task is worth a retry."""
    return isinstance(failed.data, ConnectionError | Unreachable)


def backoff(retries: int) -> list[float]:
    """Return the seconds before each retry: 10, 20, 40, ..., each up to half shorter or longer.

    The random part keeps runs that failed together from retrying together. Prefect's own `retry_jitter_factor` has no
    effect in 3.7.
    """
    return [10 * 2**retry * random.uniform(0.5, 1.5) for retry in range(retries)]


PATIENCE: dict[str, Any] = {"retries": 3, "retry_delay_seconds": backoff, "retry_condition_fn": unreachable}
"""Retries for a step that failed at the network. A training that failed would fail again."""


@task(task_run_name="preflight", cache_policy=NO_CACHE, **PATIENCE)
def check(folder: Path) -> None:
    """Check parameters, data and machine before any expensive stage."""
    ended = subprocess.run(  # in a process of its own, because a process that looks at a GPU holds memory there
        [str(PYTHON), "-m", "stance", "preflight", "--json"],
        cwd=folder,
        env={**processes.environment(), OWNER: str(os.getpid())},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if ended.stdout:
        create_table_artifact(json.loads(ended.stdout), key="preflight")
    if ended.returncode:
        kind = ConnectionError if ended.returncode == os.EX_TEMPFAIL else InputError
        raise kind(ended.stderr.strip().removeprefix("error: "))


@task(task_run_name="{stage}", cache_policy=NO_CACHE, **PATIENCE)
def reproduce(stage: str, folder: Path, minutes: float = 0) -> State[tuple[int, int]]:
    """Bring a stage up to date; the name and message of the state say how - ran, restored or unchanged - and why.

    The result is the peak memory in MiB: of the largest process in RAM, and in use on the GPU.
    """
    info = get_run_logger().info
    peaks = (0, 0)
    with (folder / LOG).open("a", encoding="utf-8") as file, ExitStack() as turns:

        def log(line: str) -> None:
            nonlocal peaks
            info(line)
            print(line, file=file, flush=True)
            if peak := PEAK.match(line):
                peaks = max(peaks[0], int(peak[1])), max(peaks[1], int(peak[2] or 0))

        prepared = prepare(stage, folder)
        if not prepared.outcome and turns.enter_context(in_turn(prepared.turn, log)):
            prepared = prepare(stage, folder)
        reasons = ", ".join(prepared.reasons)
        outcome = prepared.outcome or made(stage, folder, reasons, log, minutes)
    message = outcome if outcome == "unchanged" else f"{outcome}: {reasons}"
    return Completed(name=outcome.capitalize(), message=message, data=peaks)


def made(stage: str, folder: Path, reasons: str, log: Callable[[str], None], minutes: float) -> Outcome:
    """Run a stage on the GPUs that it needs, or let DVC fetch its outputs, and return its outcome.

    Raises:
        ConnectionError: As in `stages.reproduce`, like the other two; each names the reasons why the stage ran.
        TimeoutError: It took too long.
        RuntimeError: It failed.
    """
    with devices.lease(stages.devices(stage, folder), f"{flow_run.name} ({stage})", log) as lease:
        show_devices(lease, log)
        try:
            return stages.reproduce(stage, folder, progress(stage, log), lease, minutes)
        except (OSError, RuntimeError) as error:
            raise type(error)(f"{error} (it ran because of {reasons or 'missing outputs'})") from None


def show_devices(lease: devices.Lease, log: Callable[[str], None]) -> None:
    """Show in the log and in the UI who holds which GPU, if the lease holds one."""
    if not (names := [device.name for device in lease.devices if device.name]):
        return
    log(f"works on GPU {', '.join(names)}")
    pool = devices.visible()
    held = devices.holders(pool)
    create_table_artifact([{"GPU": device.name, "holder": held.get(device.name, "")} for device in pool], key="devices")


@task(task_run_name="push", cache_policy=NO_CACHE, **PATIENCE)
def push(folder: Path) -> None:
    """Push the outputs of a run, and then its record, to the DVC remote, where other machines find them."""
    stages.push(folder, get_run_logger().info)
    shared.publish(folder)


def progress(stage: str, log: Callable[[str], None]) -> Callable[[str], None]:
    """Return a log function that also shows the progress of training or answering as a bar in the UI."""
    key, bar, lost = f"{stage}-progress".replace("_", "-"), list[UUID](), False

    def show(step: re.Match[str]) -> None:
        description = f"{step[1]}, {step[4]} s left"
        if not bar:
            bar.append(cast(UUID, create_progress_artifact(progress=0.0, key=key, description=description)))
        update_progress_artifact(bar[0], progress=100 * int(step[2]) / int(step[3]), description=description)

    def line(text: str) -> None:
        nonlocal lost
        log(text)
        if (step := STEP.search(text)) and not lost:
            try:
                show(step)
            except (httpx.HTTPError, PrefectException) as error:  # a failed display must not end the stage
                lost = True
                log(f"the progress of {stage} is not shown any more ({type(error).__name__}: {error})")

    return line
