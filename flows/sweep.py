"""The flow `sweep`: a grid of runs, each in a workspace of its own, and a page that compares them.

    make sweep GRID=course JOBS=2       two runs at a time
    make sweep GRID=course JOBS=auto    as many as keep all GPUs busy
    make sweep GRID=course JOBS=pool    on the workers of a work pool, which may be other machines (docs/scale.md)
    make sweep GRID=course MERGE=best   train all, try every adapter in one engine, and merge only the best one

A grid is a file in `grids/` in the form of scikit-learn's `ParameterGrid`: mappings of dotted parameters to lists of
values. A run starts from the last commit, and its name is made from that commit and its parameters. So a sweep that is
started again repeats no complete run, and continues the others.
"""

import argparse
import hashlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import pool, trials
from flows.align import in_workspace
from flows.choices import GRIDS, Choice, grids
from flows.pages import url
from flows.server import some_server
from stance.config.profiles import Overrides
from stance.errors import InputError, Unreachable, run
from stance.machine.devices import visible
from stance.machine.git import git
from stance.pages.comparison import compare
from stance.pages.comparison_rows import READ, unreadable
from stance.runs import shared, stages, workspace
from stance.runs.finished import PARAMS
from stance.runs.record import RECORD, Run
from stance.runs.workspace import RUNS

ORIGIN = ("params.yaml", "dvc.yaml", "tasks", "stance", "flows", "data/sources")
"""The committed files that a run is made from."""
SHOWN = (*READ, Path("data/report"))
"""The outputs of a run that the comparison reads or links to."""
AGAIN = 60
"""Seconds after which a worker tries a run again whose network failed."""
HOURS = 6
"""Hours for which a worker does so."""
IN_TURN = 2
"""Runs that share the GPUs that one run needs: one computes while the stages of the other start, hash and evaluate."""


def planned(grid: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of each run of a grid by its name.

    Raises:
        InputError: As in `points` and `refuse_edits`.
    """
    parameters = points(grid)
    refuse_edits()
    return {named(grid, point): point for point in parameters}


def refuse_edits() -> None:
    """Refuse uncommitted edits, which the runs of a grid would not see.

    Raises:
        InputError: A file that runs are made from has uncommitted edits; names all such files.
    """
    edited = workspace.edited(*ORIGIN)
    if edited:
        are = "are" if len(edited) > 1 else "is"
        raise InputError(
            f"{', '.join(edited)} {are} edited and the runs of a grid start from the last commit; commit or stash the "
            "edits first"
        )


def points(grid: str) -> list[dict[str, Any]]:
    """Return the parameters of each run of a grid, checked together with all other parameters.

    Raises:
        InputError: There is no such grid, the file is not a grid, or a value is wrong.
    """
    path = GRIDS / f"{grid}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in GRIDS.glob("*.yaml")))
        raise InputError(f"there is no grid {grid!r}; expected one of {names}, or write {path}")
    from sklearn.model_selection import ParameterGrid  # takes a second to import; other flows import this module, too

    try:
        parameters = list(ParameterGrid(yaml.safe_load(path.read_text(encoding="utf-8"))))
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no grid ({error}); expected mappings of dotted parameters to lists") from None
    for point in parameters:
        Overrides(changes=point).values(Path("params.yaml"))
    return parameters


def named(grid: str, point: Mapping[str, Any]) -> str:
    """Return the name of a run, the same for the same tree and parameters."""
    identity = json.dumps([git(Path(), "rev-parse", "HEAD^{tree}"), point], sort_keys=True)
    return f"{grid}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


@flow(name="swept", flow_run_name="{name}")
def swept(name: str, point: dict[str, Any], commit: str = "", before: str | None = None) -> dict[str, str]:
    """Make one run of a grid, or continue it.

    Args:
        name: The name of the run.
        point: The values that replace those in `params.yaml`.
        commit: The commit to work at, if this is a worker of a pool. The worker waits for a server that is away.
        before: The stage to stop before; None for a whole run.

    Raises:
        InputError: Another process works on it.
    """
    if not commit:
        return in_workspace(own_workspace(name, point), before=before)
    return patiently(lambda: made_elsewhere(name) or in_workspace(own_workspace(name, point, commit)))


def made_elsewhere(name: str) -> dict[str, str] | None:
    """Return the outcomes of a run that another worker completed, so that no run is made twice; else None."""
    record = shared.published(name)
    return record.run.stages if record else None


def patiently(work: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Do some work, and again each minute for some hours while a server (the remote, git, the Hub) does not answer."""
    until = time.monotonic() + 3600 * HOURS
    while True:
        try:
            return work()
        except (ConnectionError, Unreachable) as error:
            if time.monotonic() > until:
                raise
            get_run_logger().warning("%s; the run goes on once it does, the next try is in %d s", error, AGAIN)
            time.sleep(AGAIN)


def own_workspace(name: str, point: dict[str, Any], commit: str = "") -> Path:
    """Return the workspace of a run of a grid; make it, unless an earlier try has.

    Raises:
        InputError: Another process works on it.
    """
    folder = RUNS.resolve() / name
    if (folder / RECORD).exists():
        run = Run.read(folder)
        if run.open and run.alive():
            raise InputError(f"process {run.pid} works on the run {name}; wait for it, or end it")
        if run.state == "starting" or unreadable(folder) == PARAMS:  # its workspace is incomplete
            workspace.remove(name)
    if not (folder / RECORD).exists():
        ident = str(flow_run.id)
        workspace.create(name, Overrides(changes=point), edits=False, flow_run_id=ident, commit=commit or None)
    return folder


@task(task_run_name="{name}", cache_policy=NO_CACHE)
def attempt(name: str, point: dict[str, Any], before: str | None = None) -> None:
    """Make one run of a grid, in a thread beside other runs."""
    swept(name, point, before=before)


@flow(name="sweep")
def sweep(
    grid: Annotated[str, Choice(grids)],
    jobs: Annotated[int, Field(ge=0)] = 1,
    on_pool: bool = False,
    merge: Literal["all", "best"] = "all",
) -> str:
    """Make the incomplete runs of a grid, and compare all of its runs.

    Args:
        grid: Name of a file in `grids/`.
        jobs: The number of runs at a time; 0 for as many as keep all GPUs busy.
        on_pool: Make the runs on the workers of the work pool instead, as many at a time as these take.
        merge: The runs to merge and to measure whole: all, or only the one whose adapter is best.

    Raises:
        InputError: As in `planned` and `trials.require`, or there is no DVC remote by which a pool could share runs.
        RuntimeError: Runs failed; names them.
    """
    runs = planned(grid)
    if merge == "best":
        trials.require(runs.values(), on_pool=on_pool)
    left = {name: point for name, point in runs.items() if not complete(name)}
    get_run_logger().info("%d of the %d runs of %s are complete already", len(runs) - len(left), len(runs), grid)
    jobs = jobs or fitting(runs.values())
    problems = merge_best(runs, jobs) if merge == "best" else on_workers(left) if on_pool else here(left, jobs)
    page = compare(grid, runs, problems)
    create_markdown_artifact((page.parent / "index.md").read_text(encoding="utf-8"), key="comparison")
    if link := url(page):
        create_link_artifact(link, link_text="the comparison", key="comparison-page", description=grid)
    failed = problems or [name for name in runs if merge == "all" and not complete(name)]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(runs)} runs failed, {', '.join(failed)}; {page} says why")
    return str(page)


def merge_best(runs: Mapping[str, dict[str, Any]], jobs: int) -> dict[str, str]:
    """Train all runs, try their adapters, and bring the best run to its end; return problems by the name of the run."""
    left = [name for name in runs if not (complete(name) or trials.trained(RUNS / name))]
    problems = here({name: runs[name] for name in left}, jobs, before="merge")
    trained = [name for name in runs if name not in problems and trials.trained(RUNS / name)]
    problems |= trials.try_all([RUNS / name for name in trained])
    tried = [name for name in trained if name not in problems]
    best = trials.best(tried, RUNS)
    if best is None:
        return problems | dict.fromkeys(tried, "it prefers no stance, so it cannot be the best; leave out MERGE=best")
    if not complete(best):
        problems |= here({best: runs[best]}, 1)
    if best not in problems and (far := trials.far_from_merged(RUNS / best)):
        problems[best] = far
    return problems


def here(points: Mapping[str, dict[str, Any]], jobs: int, before: str | None = None) -> dict[str, str]:
    """Make runs on this machine, some at a time, and return the problems of those that failed, by name.

    `before` is the stage to stop before; None for whole runs.
    """
    runner: ThreadPoolTaskRunner[None] = ThreadPoolTaskRunner(max_workers=jobs)
    with runner:
        tried = {
            name: runner.submit(attempt, {"name": name, "point": point, "before": before})
            for name, point in points.items()
        }
        wait(list(tried.values()))
    return reasons(tried)


def on_workers(points: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Make runs on the workers of the pool, take what they made, and return the problems of those that failed, by name.

    Raises:
        InputError: There is no DVC remote, or the server has no deployment for the runs.
        Unreachable: The remote does not answer before any run is launched.
    """
    if not stages.remote(Path()):
        raise InputError("the workers of a pool share runs by a DVC remote, and there is none: see docs/scale.md")
    left = dict(points)
    try:
        for name, point in points.items():
            if record := shared.published(name):
                take(record, point)
                del left[name]
    except ConnectionError as error:
        raise Unreachable(f"{error}; nothing was launched, the same command tries again") from None

    def take_over(record: shared.Shared) -> None:
        take(record, points[record.run.name])

    return pool.make_all(left, git(Path(), "rev-parse", "HEAD"), take_over, get_run_logger().info)


def take(record: shared.Shared, point: dict[str, Any]) -> None:
    """Make a workspace here of a run that a worker completed elsewhere; an incomplete one of this machine gives way."""
    if not complete(record.run.name):  # it is, if the worker works in this folder
        workspace.remove(record.run.name)
        shared.adopt(record, point, SHOWN)


def fitting(points: Iterable[Mapping[str, Any]]) -> int:
    """Return how many runs of a grid keep the GPUs busy; 1 on a CPU."""
    models = [Overrides(changes=point).values(Path("params.yaml"))["model"] for point in points]
    most = max((model.get("devices", 1) for model in models if model["device"] == "cuda"), default=0)
    return max(1, IN_TURN * (len(visible()) // most)) if most else 1


def reasons(tried: Mapping[str, PrefectFuture[Any]]) -> dict[str, str]:
    """Return the errors of failed runs, by the names of the runs."""
    ended = {name: future.result(raise_on_failure=False) for name, future in tried.items()}
    return {name: str(error) or type(error).__name__ for name, error in ended.items() if isinstance(error, Exception)}


def complete(name: str) -> bool:
    """Is a run completed, and are its outputs still there?"""
    folder = RUNS / name
    return (folder / RECORD).exists() and Run.read(folder).state == "completed" and unreadable(folder) is None


def leave(*_: object) -> NoReturn:
    """End at once, with the runs in other threads: their guards end them when their pipes close."""
    print("\nended; the same command goes on from here", file=sys.stderr)
    os._exit(130)


def main() -> None:
    """Sweep: `python -m flows.sweep GRID --jobs 2`."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description=main.__doc__)
    parser.add_argument("grid", help="the name of a file in grids/, without its ending")
    parser.add_argument(
        "--jobs",
        default="1",
        help="runs at a time; auto: as many as keep all GPUs busy; pool: on the workers of a pool (default: 1)",
    )
    parser.add_argument(
        "--merge",
        default="all",
        choices=("all", "best"),
        help="the runs to merge and measure whole: all, or only the one whose adapter is best (default: all)",
    )
    options = parser.parse_args()
    jobs = "0" if options.jobs in ("auto", "pool") else options.jobs
    if not jobs.isdecimal() or jobs == options.jobs == "0":
        parser.error(f"--jobs is {options.jobs}; expected a number of 1 or more, auto, or pool")
    runs = planned(options.grid)
    if options.merge == "best":
        trials.require(runs.values(), on_pool=options.jobs == "pool")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    logging.getLogger("prefect").setLevel(logging.INFO)
    try:
        with some_server():
            page = sweep(options.grid, int(jobs), on_pool=options.jobs == "pool", merge=options.merge)
            print(f"The comparison: {page}")
    except RuntimeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run(main)
