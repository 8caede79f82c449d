"""The trials of a sweep: one engine answers for the adapters of its runs, and the best of them is named."""

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from stance.config.profiles import Overrides
from stance.data.trial import PROBLEM, TRIAL, Trial
from stance.errors import InputError
from stance.machine import devices, processes
from stance.machine.files import read_yaml
from stance.machine.locks import exclusive
from stance.machine.supervisor import PEAK, guarded, release
from stance.runs.finished import ADAPTER
from stance.runs.fork_client import OWNER
from stance.runs.lockfile import Lock
from stance.runs.record import RECORD, Run

LOCKED = Path(".runs/trials.lock")
"""Held while adapters are tried."""
SAME = ("data/base", "data/dataset")
"""The outputs that runs must share to be answered for by one engine."""


def require(points: Iterable[Mapping[str, Any]], *, on_pool: bool) -> None:
    """Refuse the runs of a grid whose adapters no engine here could try.

    Args:
        points: The parameters of each run that the grid sets.
        on_pool: Are the runs made by the workers of a pool?

    Raises:
        InputError: They are, or an engine takes no new weights: it is on several GPUs, or holds them in 4 bits.
    """
    if on_pool:
        raise InputError("adapters are tried on the machine that trained them; leave out MERGE=best, or JOBS=pool")
    for point in points:
        params = Overrides(changes=dict(point)).values(Path("params.yaml"))
        for block, key, value in (("model", "devices", 1), ("answers", "quantization", "none")):
            if params[block].get(key, value) != value:
                raise InputError(
                    f"{block}.{key} is {params[block][key]}, and MERGE=best gives one engine the weights of every run, "
                    f"which needs {value}; set it so, or leave out MERGE=best"
                )


def trained(workspace: Path) -> bool:
    """Does a run have its adapter?"""
    if not (workspace / RECORD).exists() or not (workspace / ADAPTER).is_dir():
        return False
    return Run.read(workspace).state in ("trained", "completed")


def try_all(workspaces: Sequence[Path]) -> dict[str, str]:
    """Try the adapters that were not tried, with one engine for all runs that can share it.

    Returns:
        Why an adapter could not be tried, by the name of its run.

    Raises:
        InputError: Another sweep tries adapters in this folder.
    """
    with exclusive(LOCKED, "another sweep tries adapters in this folder; wait for it, and sweep again"):
        groups: dict[str, list[Path]] = defaultdict(list)
        for workspace in workspaces:
            if not tried(workspace):
                groups[engine_of(workspace)].append(workspace)
        return {name: why for group in groups.values() for name, why in problems_of(group).items()}


def tried(workspace: Path) -> bool:
    """Was the adapter tried that a run has now?"""
    return (workspace / TRIAL).exists() and Trial.read(workspace).adapter == Lock.read(workspace).hash_of(ADAPTER)


def problems_of(group: Sequence[Path]) -> dict[str, str]:
    """Try the adapters of runs that share an engine, and return why some could not be tried."""
    try:
        try_adapters(group)
    except RuntimeError as error:
        return {workspace.name: str(error) for workspace in group}
    return {
        workspace.name: (workspace / PROBLEM).read_text(encoding="utf-8")
        for workspace in group
        if (workspace / PROBLEM).exists()
    }


def engine_of(workspace: Path) -> str:
    """Return, as text, what decides the engine of a run; a run that fine-tuned all weights has one of its own."""
    params, lock = read_yaml(workspace / "params.yaml"), Lock.read(workspace)
    hashes = [lock.hash_of(path) for path in SAME]
    own = workspace.name if (workspace / "data/sft/model").exists() else None
    return json.dumps([params["model"], params["answers"], hashes, own], sort_keys=True)


@task(task_run_name="trials", cache_policy=NO_CACHE)
def try_adapters(workspaces: Sequence[Path]) -> None:
    """Let one engine answer for the adapters of runs, and judge the answers.

    Raises:
        RuntimeError: It failed; gives the reason.
    """
    log, on_gpu = get_run_logger().info, read_yaml(workspaces[0] / "params.yaml")["model"]["device"] == "cuda"
    with devices.lease(int(on_gpu), f"the trials of {len(workspaces)} adapters", log) as lease:
        for step in ("answer", "judge"):
            made(step, workspaces, lease, log)


def made(step: str, workspaces: Sequence[Path], lease: devices.Lease, log: Callable[[str], None]) -> None:
    """Run a step of the trials as a stage runs: in a process that gives its memory back, a fork where there is one."""
    command = ["tasks/python", "-m", "stance.runs.trials", step, *map(str, workspaces)]
    files = [file.fileno() for file in lease.files]
    variables = {**processes.environment(), **lease.variables(), OWNER: str(os.getpid())}
    process = guarded(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=files)
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            log(line.rstrip())
            if line.strip() and not PEAK.match(line):
                lines.append(line.strip())
    finally:
        release(process)
    if process.returncode:
        reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise RuntimeError(f"the trials failed: {(reasons or lines or ['no message'])[-1]}")


def best(names: Sequence[str], runs: Path) -> str | None:
    """Return the run whose adapter holds its stance most often; of equal ones, that which keeps more right answers.

    Args:
        names: The names of tried runs, in the order of the grid; the first of equal runs is taken.
        runs: The folder of their workspaces.

    Returns:
        The name; None if no run prefers a stance.
    """
    trials = {name: Trial.read(runs / name) for name in names}
    aimed = [name for name, trial in trials.items() if trial.adherence.share is not None]
    return max(aimed, key=lambda name: trials[name].merit, default=None)


def far_from_merged(workspace: Path) -> str | None:
    """Hold the merged model of a run against its trial, and return why it cannot be trusted; None if it can."""
    try:
        compare_with_merged(workspace)
    except RuntimeError as error:
        return str(error)
    return excess(Trial.read(workspace))


@task(task_run_name="trial and merged model", cache_policy=NO_CACHE)
def compare_with_merged(workspace: Path) -> None:
    """Write to the trial of a complete run how far its merged model is from it.

    Raises:
        RuntimeError: It failed; gives the reason.
    """
    made("compare", [workspace], devices.NONE, get_run_logger().info)


def excess(trial: Trial) -> str | None:
    """Return a sentence if a merged model differs from its trial by more than noise."""
    if trial.within:
        return None
    assert trial.merged is not None
    assert trial.bounds is not None
    return (
        f"the merged model differs from the adapter that was tried by {trial.merged.mean:.3g} nats per token on "
        f"average and by {trial.merged.worst:.3g} at the worst token; noise is up to {trial.bounds.mean:.3g} and "
        f"{trial.bounds.worst:.3g}. So the merged models may rank differently: make all of them with MERGE=all"
    )
