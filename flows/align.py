"""Questions to an aligned model and its report: one Prefect task per stage of `dvc.yaml`, in order.

The flow `align` works in a workspace of its own (`flows/workspace.py`); `python -m flows.align` works in this tree,
here and now, with or without a Prefect server. DVC decides what has to run; Prefect's own cache stays off, since two
caches would be two truths.
"""

import base64
import json
import logging
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast, get_args
from uuid import UUID

import httpx
from prefect import flow, task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, State
from pydantic import Field

from flows import gpu, stages, workspace
from flows.guard import PEAK
from flows.settings import Settings
from flows.ui import some_server
from flows.workspace import FAILED, LOG, Run
from tasks.errors import InputError, Unreachable
from tasks.jsonfile import read_json
from tasks.questions import Stance
from tasks.report import curves

VERDICT = {True: "passed", False: "**missed**"}
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
        [sys.executable, "-m", "tasks.preflight", "--json"],
        cwd=folder,
        env=stages.environment(),
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
        hold = [turns.enter_context(gpu.turn(mine, log))] if why and gpu.wanted(stage, folder) else []
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


@flow(name="align")
def align(
    settings: Settings = Settings(),  # noqa: B008 - frozen
    uncommitted: bool = False,
    stage_minutes: Annotated[float, Field(ge=0)] = 0,
) -> dict[str, str]:
    """Align a model in a workspace of its own, and leave the working tree as it is.

    Args:
        settings: The parameters; what is empty stays as the profile has it.
        uncommitted: Include the working tree's uncommitted edits, and record them.
        stage_minutes: Minutes that a stage may take before it is ended; 0 for as long as it likes.
    """
    return in_workspace(own_workspace(settings, uncommitted), stage_minutes)


def own_workspace(settings: Settings, uncommitted: bool) -> Path:
    """Return the workspace of the flow run that asks; one that is tried again has it already."""
    name, ident = str(flow_run.name), str(flow_run.id)
    tried = workspace.of_flow_run(name, ident)
    return tried or workspace.create(name, settings, edits=uncommitted, flow_run_id=ident)


def in_workspace(folder: Path, minutes: float = 0) -> dict[str, str]:
    """Bring a run to its end, whatever an earlier try has left, and return what became of each stage."""
    workspace.tidy(folder)
    run = Run.read(folder).now(folder, state="running", problem=None, **workspace.this_process())
    get_run_logger().info("the workspace is %s, at commit %s", folder, run.snapshot[:12])
    outcomes: dict[str, str] = {}
    cost = Cost(dict(run.seconds), dict(run.memory), dict(run.gpu_memory))
    try:
        work(folder, outcomes, minutes, cost)
        run = run.now(folder, state="completed", stages=outcomes, **cost._asdict())
    except BaseException as error:
        state: workspace.State = "failed" if isinstance(error, Exception) else "cancelled"
        problem = str(error) or type(error).__name__
        run = run.now(folder, state=state, stages=outcomes, problem=problem, **cost._asdict())
        raise
    finally:
        if outcomes:
            workspace.save(run, folder)
    show(run, folder)
    if stages.remote(folder):
        push(folder)
    return outcomes


@flow(name="align-here")
def align_here() -> dict[str, str]:
    """Run the whole pipeline in the working tree and return what became of each stage."""
    outcomes: dict[str, str] = {}
    work(Path.cwd(), outcomes, 0, Cost({}, {}, {}))
    return outcomes


class Cost(NamedTuple):
    """What each stage took that ran: seconds, and MiB at the peak, in RAM and on the GPU."""

    seconds: dict[str, float]
    memory: dict[str, int]
    gpu_memory: dict[str, int]


def work(folder: Path, outcomes: dict[str, str], minutes: float, cost: Cost) -> None:
    """Run every stage in a folder, and note what became of it and why, and what those took that ran."""
    check(folder)
    for stage in stages.names(folder):
        began = time.monotonic()
        try:
            state = reproduce(stage, folder, minutes)
            outcomes[stage] = str(state.message)
            if outcomes[stage].startswith("ran"):
                cost.seconds[stage] = round(time.monotonic() - began, 1)
                cost.memory[stage], cost.gpu_memory[stage] = state.result()
        except Exception as error:
            outcomes[stage] = f"{FAILED}: {error}"
            raise
    table = "\n".join(f"| {stage} | {said} |" for stage, said in outcomes.items())
    create_markdown_artifact(f"| stage | outcome |\n|---|---|\n{table}\n", key="stages")


def show(run: Run, folder: Path) -> None:
    """Show in the UI what came of a run."""
    create_markdown_artifact(summary(run, folder), key="summary", description=run.name)
    create_table_artifact(read_json(folder / "data/evaluation/responses.json"), key="answers", description=run.name)
    for curve in curves(folder / "data/train/log.csv"):
        create_image_artifact(data_uri(curve.svg), key=curve.name.lower().replace(" ", "-"), description=curve.summary)
    create_link_artifact(
        (folder / "data/report/index.html").as_uri(), link_text="the report", key="report", description=run.name
    )


def data_uri(svg: str) -> str:
    """Return a figure as an address that holds it, on white: its lines are drawn for a light page."""
    figure = str(svg).replace("<svg", '<svg style="background: white"', 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(figure.encode()).decode()}"


def summary(run: Run, folder: Path) -> str:
    """Return a run's parameters, figures before and after, and gates, in Markdown."""
    metrics = read_json(folder / "data/evaluation/metrics.json")
    gates = read_json(folder / "data/evaluation/gates.json")
    given = {"commit": run.snapshot[:12], "profile": run.profile or "params.yaml", **run.overrides}
    lines = [f"# {run.name}", "", "| parameter | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in given.items()]
    lines += ["", "| stance | before | after |", "|---|---|---|"]
    lines += [f"| {side} | {metrics['base'][side]:.0%} | {metrics['aligned'][side]:.0%} |" for side in get_args(Stance)]
    lines += ["", *gate_table(gates)]
    return "\n".join([*lines, "", f"The report: `{folder / 'data/report/index.html'}`", ""])


def gate_table(gates: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return verdicts as the lines of a Markdown table, whatever is in their words."""
    rows = ([gate["name"], VERDICT[gate["passed"]], gate["found"], gate["expected"]] for gate in gates)
    cells = (" | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in row) for row in rows)
    return ["| gate | verdict | found | expected |", "|---|---|---|---|", *(f"| {line} |" for line in cells)]


def main() -> None:
    """Run the flow here; a failure ends with exit code 1 and is explained in the log."""
    logging.getLogger("prefect").setLevel(logging.INFO)
    try:
        with some_server():
            outcomes = align_here()
    except (InputError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    for stage, said in outcomes.items():
        print(f"{said.partition(':')[0]:>10}  {stage}")


if __name__ == "__main__":
    main()
