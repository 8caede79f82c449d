"""The Prefect tasks of an alignment: pre-flight, one task per stage, and the push to the DVC remote."""

import json
import os
import random
import re
import subprocess
import sys
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
from stance.machine import locks, processes
from stance.machine.supervisor import PEAK
from stance.runs import stages
from stance.runs.record import LOG

STEP = re.compile(r"((?:step|sequence) (\d+)/(\d+)) .* (\d+) s left")


def unreachable(_task: Any, _run: Any, failed: State[Any]) -> bool:
    """Did a task fail because a server did not answer? Only that may be better later."""
    return isinstance(failed.data, ConnectionError | Unreachable)


def backoff(retries: int) -> list[float]:
    """Return the seconds before each retry: 10, 20, 40, ..., each up to half shorter or longer.

    Runs that fail together shall not come back together; Prefect's own `retry_jitter_factor` does nothing in 3.7.
    """
    return [10 * 2**retry * random.uniform(0.5, 1.5) for retry in range(retries)]


PATIENCE: dict[str, Any] = {"retries": 3, "retry_delay_seconds": backoff, "retry_condition_fn": unreachable}
"""Only a network step is tried again, wherever it is; a training that failed would fail again."""


@task(task_run_name="preflight", cache_policy=NO_CACHE, **PATIENCE)
def check(folder: Path) -> None:
    """Check parameters, data and machine before anything expensive, all at once."""
    done = subprocess.run(  # a process of its own, since looking at a GPU takes some of its memory until the end
        [sys.executable, "-m", "stance", "preflight", "--json"],
        cwd=folder,
        env=processes.environment(),
        capture_output=True,
        text=True,
    )
    if done.stdout:
        create_table_artifact(json.loads(done.stdout), key="preflight")
    if done.returncode:
        kind = ConnectionError if done.returncode == os.EX_TEMPFAIL else InputError
        raise kind(done.stderr.strip().removeprefix("error: "))


@task(task_run_name="{stage}", cache_policy=NO_CACHE, **PATIENCE)
def reproduce(stage: str, folder: Path, minutes: float = 0) -> State[tuple[int, int]]:
    """Bring a stage up to date; the state says what that took - ran, restored, unchanged or failed - and why.

    Its result is the MiB that the largest process took in RAM, and those in use on the GPU.
    """
    why = ", ".join(stages.reasons(stage, folder))
    say = get_run_logger().info
    peaks = (0, 0)
    with (folder / LOG).open("a", encoding="utf-8") as kept, ExitStack() as turns:

        def log(line: str) -> None:
            nonlocal peaks
            say(line)
            print(line, file=kept, flush=True)
            if found := PEAK.match(line):
                peaks = int(found[1]), int(found[2])

        mine = f"{flow_run.name} ({stage})"
        hold = [turns.enter_context(locks.gpu_lock(mine, log))] if why and stages.needs_gpu(stage, folder) else []
        try:
            outcome = stages.reproduce(stage, folder, progress(stage, log), hold, minutes)
        except (OSError, RuntimeError) as error:
            raise type(error)(f"{error} (it ran because of {why or 'what is missing'})") from None
    said = outcome if outcome == "unchanged" else f"{outcome}: {why}"
    return Completed(name=outcome.capitalize(), message=said, data=peaks)


@task(task_run_name="push", cache_policy=NO_CACHE, **PATIENCE)
def push(folder: Path) -> None:
    """Give the run's outputs to the DVC remote, where other machines find them."""
    stages.push(folder, get_run_logger().info)


def progress(stage: str, log: Callable[[str], None]) -> Callable[[str], None]:
    """Return a log that also shows, as a bar in the UI, how far training or answering is."""
    key, bar, lost = f"{stage}-progress".replace("_", "-"), list[UUID](), False

    def show(found: re.Match[str]) -> None:
        said = f"{found[1]}, {found[4]} s left"
        if not bar:
            bar.append(cast(UUID, create_progress_artifact(progress=0.0, key=key, description=said)))
        update_progress_artifact(bar[0], progress=100 * int(found[2]) / int(found[3]), description=said)

    def line(text: str) -> None:
        nonlocal lost
        log(text)
        if (found := STEP.search(text)) and not lost:
            try:
                show(found)
            except (httpx.HTTPError, PrefectException) as error:  # what is shown may not end what is done
                lost = True
                log(f"the progress of {stage} is not shown any more ({type(error).__name__}: {error})")

    return line
