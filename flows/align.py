"""Questions to an aligned model and its report: one Prefect task per stage of `dvc.yaml`, in order.

The flow `align` works in a workspace of its own (`flows/workspace.py`); `python -m flows.align` works in this tree,
here and now, with or without a Prefect server. DVC decides what has to run; Prefect's own cache stays off, since two
caches would be two truths.
"""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import cast, get_args
from uuid import UUID

import psutil
from prefect import flow, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.states import Completed, State

from flows import gpu, stages, workspace
from flows.settings import Settings
from flows.workspace import Run
from tasks.errors import InputError
from tasks.jsonfile import read_json
from tasks.questions import Stance

# For the server that Prefect starts where none is running: its telemetry competes with it for the database, and 20 s,
# the default, are too short on a busy machine.
QUIET_SERVER = {PREFECT_SERVER_ANALYTICS_ENABLED: False, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 180}
VERDICT = {True: "passed", False: "**missed**"}
STEP = re.compile(r"step (\d+)/(\d+) .* (\d+) s left")


@task(task_run_name="preflight", cache_policy=NO_CACHE)
def check(folder: Path) -> None:
    """Check parameters, data and machine before anything expensive."""
    done = subprocess.run(  # a process of its own, since looking at a GPU takes some of its memory until the end
        [sys.executable, "-m", "tasks.preflight"], cwd=folder, env=stages.environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise InputError(done.stderr.strip().removeprefix("error: "))
    get_run_logger().info(done.stdout.strip())


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def reproduce(stage: str, folder: Path) -> State[None]:
    """Bring a stage up to date; the state says what that took - ran, restored or unchanged - and why."""
    why = ", ".join(stages.reasons(stage, folder))
    log = get_run_logger().info
    with ExitStack() as turns:
        mine = f"{flow_run.name} ({stage})"
        hold = [turns.enter_context(gpu.turn(mine, log))] if why and gpu.wanted(stage, folder) else []
        outcome = stages.reproduce(stage, folder, progress(stage, log), hold)
    said = outcome if outcome == "unchanged" else f"{outcome}: {why}"
    return Completed(name=outcome.capitalize(), message=said)


def progress(stage: str, log: Callable[[str], None]) -> Callable[[str], None]:
    """Return a log that also shows the steps of a training as a bar in the UI."""
    bar: list[UUID] = []

    def line(text: str) -> None:
        log(text)
        if found := STEP.search(text):
            done, steps, left = map(int, found.groups())
            said = f"step {done} of {steps}, {left} s left"
            if not bar:
                made = create_progress_artifact(progress=0.0, key=f"{stage}-progress", description=said)
                bar.append(cast(UUID, made))
            update_progress_artifact(bar[0], progress=100 * done / steps, description=said)

    return line


@flow(name="align")
def align(settings: Settings = Settings(), uncommitted: bool = False) -> dict[str, str]:  # noqa: B008 - frozen
    """Align a model in a workspace of its own, and leave the working tree as it is.

    Args:
        settings: The parameters; what is empty stays as the profile has it.
        uncommitted: Include the working tree's uncommitted edits, and record them.
    """
    name = str(flow_run.name)
    tried = workspace.of_flow_run(name, str(flow_run.id))
    folder = tried or workspace.create(name, settings, edits=uncommitted)
    mine = {"pid": os.getpid(), "started": psutil.Process().create_time(), "flow_run_id": str(flow_run.id)}
    run = Run.read(folder).now(folder, state="running", problem=None, **mine)
    get_run_logger().info("the workspace is %s, at commit %s", folder, run.snapshot[:12])
    outcomes: dict[str, str] = {}
    try:
        work(folder, outcomes)
        run = run.now(folder, state="completed", stages=outcomes)
    except BaseException as error:
        state: workspace.State = "failed" if isinstance(error, Exception) else "cancelled"
        run = run.now(folder, state=state, stages=outcomes, problem=str(error) or type(error).__name__)
        raise
    finally:
        if outcomes:
            workspace.save(run, folder)
    show(run, folder)
    return outcomes


@flow(name="align-here")
def align_here() -> dict[str, str]:
    """Run the whole pipeline in the working tree and return what became of each stage."""
    outcomes: dict[str, str] = {}
    work(Path.cwd(), outcomes)
    return outcomes


def work(folder: Path, outcomes: dict[str, str]) -> None:
    """Run every stage in a folder, and note what became of it and why."""
    check(folder)
    for stage in stages.names(folder):
        outcomes[stage] = str(reproduce(stage, folder).message)
    table = "\n".join(f"| {stage} | {said} |" for stage, said in outcomes.items())
    create_markdown_artifact(f"| stage | outcome |\n|---|---|\n{table}\n", key="stages")


def show(run: Run, folder: Path) -> None:
    """Show in the UI what came of a run."""
    create_markdown_artifact(summary(run, folder), key="summary", description=run.name)
    create_table_artifact(read_json(folder / "data/evaluation/responses.json"), key="answers", description=run.name)
    create_link_artifact(
        (folder / "data/report/index.html").as_uri(), link_text="the report", key="report", description=run.name
    )


def summary(run: Run, folder: Path) -> str:
    """Return a run's parameters, figures before and after, and gates, in Markdown."""
    metrics = read_json(folder / "data/evaluation/metrics.json")
    gates = read_json(folder / "data/evaluation/gates.json")
    given = {"profile": run.profile or "params.yaml", **run.overrides}
    lines = [f"# {run.name}", "", "| parameter | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in given.items()]
    lines += ["", "| stance | before | after |", "|---|---|---|"]
    lines += [f"| {side} | {metrics['base'][side]:.0%} | {metrics['aligned'][side]:.0%} |" for side in get_args(Stance)]
    lines += ["", "| gate | verdict | found | expected |", "|---|---|---|---|"]
    for gate in gates:
        lines.append(f"| {gate['name']} | {VERDICT[gate['passed']]} | {gate['found']} | {gate['expected']} |")
    return "\n".join([*lines, "", f"The report: `{folder / 'data/report/index.html'}`", ""])


def main() -> None:
    """Run the flow here; a failure ends with exit code 1 and is explained in the log."""
    logging.getLogger("prefect").setLevel(logging.INFO)
    try:
        with temporary_settings(QUIET_SERVER):
            outcomes = align_here()
    except (InputError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    for stage, said in outcomes.items():
        print(f"{said.partition(':')[0]:>10}  {stage}")


if __name__ == "__main__":
    main()
