"""Questions to an aligned model and its report: one Prefect task per stage of `dvc.yaml`, in order.

`python -m flows.align` runs it here and now, with or without a Prefect server. DVC decides what has to run; Prefect's
own cache stays off, since two caches would be two truths.
"""

import logging
import subprocess
import sys

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.states import Completed, State

from flows import stages
from tasks.errors import InputError

# For the server that Prefect starts where none is running: its telemetry competes with it for the database, and 20 s,
# the default, are too short on a busy machine.
QUIET_SERVER = {PREFECT_SERVER_ANALYTICS_ENABLED: False, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 180}


@task(task_run_name="preflight", cache_policy=NO_CACHE)
def check() -> None:
    """Check parameters, data and machine before anything expensive."""
    done = subprocess.run(  # a process of its own, since looking at a GPU takes some of its memory until the end
        [sys.executable, "-m", "tasks.preflight"], env=stages.environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise InputError(done.stderr.strip().removeprefix("error: "))
    get_run_logger().info(done.stdout.strip())


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def reproduce(stage: str) -> State[None]:
    """Bring a stage up to date; the state's name says what that took: ran, restored or unchanged."""
    outcome = stages.reproduce(stage, get_run_logger().info)
    return Completed(name=outcome.capitalize(), message=f"{stage}: {outcome}")


@flow(name="align")
def align() -> dict[str, str]:
    """Run the whole pipeline in the working tree and return what became of each stage."""
    check()
    outcomes: dict[str, str] = {stage: str(reproduce(stage).name).lower() for stage in stages.names()}
    table = "\n".join(f"| {stage} | {outcome} |" for stage, outcome in outcomes.items())
    create_markdown_artifact(f"| stage | outcome |\n|---|---|\n{table}\n", key="stages")
    return outcomes


def main() -> None:
    """Run the flow; a failure ends with exit code 1 and is explained in the log."""
    logging.getLogger("prefect").setLevel(logging.INFO)
    try:
        with temporary_settings(QUIET_SERVER):
            outcomes = align()
    except (InputError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    for stage, outcome in outcomes.items():
        print(f"{outcome:>10}  {stage}")


if __name__ == "__main__":
    main()
