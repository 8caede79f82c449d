"""The flow `align`: from questions to an aligned model and its report, with one Prefect task per stage of `dvc.yaml`.

The flow works in a workspace of its own (`stance/runs/workspace.py`). `python -m flows.align` works in this tree, with
or without a Prefect server. DVC decides which stages must run. Prefect's own cache is off, because two caches can
disagree.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Annotated, NamedTuple

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows.artifacts import show
from flows.server import some_server
from flows.settings import Settings
from flows.steps import check, push, reproduce
from stance.config.profiles import Overrides
from stance.errors import InputError, Unreachable
from stance.runs import record, stages, workspace
from stance.runs.record import FAILED, Run

INTERRUPTED = 130
"""The exit code after Ctrl+C, as a shell has it."""
LEFT_OUT = "params.yaml has uncommitted edits, and this run starts without them; commit them, or set `uncommitted`"


@flow(name="align")
def align(
    settings: Settings = Settings(),  # noqa: B008 - frozen
    uncommitted: bool = False,
    stage_minutes: Annotated[float, Field(ge=0)] = 0,
    commit: str = "",
) -> dict[str, str]:
    """Align a model in a workspace of its own, and leave the working tree as it is.

    Args:
        settings: The parameters; an empty field keeps the profile's value.
        uncommitted: Include the working tree's uncommitted edits, and record them; off: start from the last commit.
        stage_minutes: Time limit of a stage in minutes; 0 for none.
        commit: The commit to work at, fetched if this machine lacks it; empty for the one that is checked out.
    """
    return in_workspace(own_workspace(settings, uncommitted, commit), stage_minutes)


def own_workspace(settings: Settings, uncommitted: bool, commit: str = "") -> Path:
    """Return the workspace of this flow run; make it, unless an earlier try has.

    Raises:
        InputError: A commit and uncommitted edits are both asked for, or as in `workspace.create`.
    """
    if commit and uncommitted:
        raise InputError("a run at a given commit has no uncommitted edits; leave one of the two fields empty")
    name, ident = str(flow_run.name), str(flow_run.id)
    earlier = workspace.of_flow_run(name, ident)
    if not uncommitted and not commit and workspace.edited("params.yaml"):
        get_run_logger().warning("%s", LEFT_OUT)
    return earlier or workspace.create(
        name, settings.parameters(), edits=uncommitted, flow_run_id=ident, commit=commit or None
    )


def in_workspace(folder: Path, minutes: float = 0, before: str | None = None) -> dict[str, str]:
    """Run the stages in a workspace, where an earlier try may have stopped, and return the outcome of each stage.

    Args:
        folder: The workspace.
        minutes: Time limit of a stage in minutes; 0 for none.
        before: The stage to stop before; None for all stages.
    """
    workspace.clean_up(folder)
    holder = {"tries": flow_run.run_count, **record.this_process()}
    run = Run.read(folder).updated(folder, state="running", problem=None, stages={}, **holder)
    get_run_logger().info("the workspace is %s, at commit %s", folder, run.snapshot[:12])
    outcomes: dict[str, str] = {}
    cost = Cost(dict(run.seconds), dict(run.memory), dict(run.gpu_memory))
    try:
        work(folder, outcomes, minutes, cost, lambda: run.updated(folder, stages=outcomes, **cost._asdict()), before)
        ended: record.State = "trained" if before else "completed"
        run = run.updated(folder, state=ended, stages=outcomes, **cost._asdict())
    except BaseException as error:
        state: record.State = "failed" if isinstance(error, Exception) else "cancelled"
        problem = str(error) or type(error).__name__
        run = run.updated(folder, state=state, stages=outcomes, problem=problem, **cost._asdict())
        raise
    finally:
        if outcomes and run.state != "trained":
            workspace.save(run, folder)
    if before:
        return outcomes
    show(run, folder)
    if stages.remote(folder):
        push(folder)
    return outcomes


@flow(name="align-here")
def align_here() -> dict[str, str]:
    """Run the whole pipeline in the working tree, and return the outcome of each stage."""
    outcomes: dict[str, str] = {}
    work(Path.cwd(), outcomes, 0, Cost({}, {}, {}), lambda: None)
    return outcomes


class Cost(NamedTuple):
    """The cost of each stage that ran: seconds, and peak memory in MiB, in RAM and on the GPU."""

    seconds: dict[str, float]
    memory: dict[str, int]
    gpu_memory: dict[str, int]


def work(
    folder: Path, outcomes: dict[str, str], minutes: float, cost: Cost, ended: Callable[[], object],
    before: str | None = None,
) -> None:  # fmt: skip
    """Run the stages in a folder, add each one's outcome to `outcomes` and its cost to `cost`, and call `ended` then.

    `before` is the stage to stop before, as for `in_workspace`.
    """
    check(folder)
    for stage in takewhile(lambda name: name != before, stages.names(folder)):
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
        ended()
    table = "\n".join(f"| {stage} | {outcome} |" for stage, outcome in outcomes.items())
    create_markdown_artifact(f"| stage | outcome |\n|---|---|\n{table}\n", key="stages")


def main() -> None:
    """Run the flow in the working tree or, with `--ratio`, in a workspace; a failure ends with exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.align",
        description="Run all stages in this folder. A stage whose inputs are unchanged is skipped.",
    )
    parser.add_argument(
        "--ratio", type=float, help="run in a workspace with this pairs.support_ratio; this folder stays as it is"
    )
    ratio = parser.parse_args().ratio
    logging.getLogger("prefect").setLevel(logging.INFO)
    try:
        if ratio is not None:
            # A wrong value is told before a server starts.
            Overrides(changes={"pairs.support_ratio": ratio}).values(Path("params.yaml"))
        with some_server():
            outcomes = align_here() if ratio is None else align(Settings(support_ratio=ratio), uncommitted=True)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (InputError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, Unreachable) else 1)
    for stage, outcome in outcomes.items():
        print(f"{outcome.partition(':')[0]:>10}  {stage}")


if __name__ == "__main__":
    main()
