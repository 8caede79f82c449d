"""The trials of a sweep: one engine answers for the adapters of its runs, and the best of them is named."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from stance.config.profiles import Overrides
from stance.data.trial import TRIAL, Trial
from stance.errors import InputError
from stance.machine import devices, processes
from stance.machine.files import read_yaml
from stance.machine.supervisor import PEAK, guarded, release
from stance.runs.lockfile import LOCK
from stance.runs.record import RECORD, Run

SAME = {"base": "data/base", "dataset": "data/dataset"}
"""The stages and outputs that runs must share to be answered for by one engine."""


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
    """Has a run its adapter?"""
    if not (workspace / RECORD).exists() or not (workspace / "data/adapter").is_dir():
        return False
    return Run.read(workspace).state in ("trained", "completed")


def try_all(workspaces: Sequence[Path]) -> None:
    """Try the adapter of every run that has not been tried, with one engine for all runs that can share it.

    Raises:
        RuntimeError: An engine failed; gives its last line.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for workspace in workspaces:
        if not (workspace / TRIAL).exists():
            groups[engine_of(workspace)].append(workspace)
    for group in groups.values():
        try_adapters(group)


def engine_of(workspace: Path) -> str:
    """Return, as text, what decides the engine of a run; a run that fine-tuned all weights has one of its own."""
    params, lock = read_yaml(workspace / "params.yaml"), read_yaml(workspace / LOCK)["stages"]
    outs = {(stage, out["path"]): out["md5"] for stage in SAME for out in lock[stage]["outs"]}
    hashes = [outs[stage, path] for stage, path in SAME.items()]
    own = workspace.name if (workspace / "data/sft/model").exists() else None
    return json.dumps([params["model"], params["answers"], hashes, own], sort_keys=True)


@task(task_run_name="trials", cache_policy=NO_CACHE)
def try_adapters(workspaces: Sequence[Path]) -> None:
    """Let one engine answer for the adapters of runs, and judge the answers.

    Raises:
        RuntimeError: It failed; gives the last line that was printed.
    """
    log, on_gpu = get_run_logger().info, read_yaml(workspaces[0] / "params.yaml")["model"]["device"] == "cuda"
    with devices.lease(int(on_gpu), f"the trials of {len(workspaces)} adapters", log) as lease:
        for step in ("answer", "judge"):
            made(step, workspaces, lease, log)


def made(step: str, workspaces: Sequence[Path], lease: devices.Lease, log: Callable[[str], None]) -> None:
    """Run a step of the trials in a process of its own, which gives its memory back."""
    command = [sys.executable, "-m", "stance.runs.trials", step, *map(str, workspaces)]
    files = [file.fileno() for file in lease.files]
    variables = {**processes.environment(), **lease.variables()}
    process = guarded(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=files)
    assert process.stdout is not None
    last = "no message"
    try:
        for line in process.stdout:
            log(line.rstrip())
            last = line.strip() if line.strip() and not PEAK.match(line) else last
    finally:
        release(process)
    if process.returncode:
        raise RuntimeError(f"the adapters could not be tried: {last.removeprefix('error: ')}")


def best(names: Sequence[str], runs: Path) -> str:
    """Return the run whose adapter holds its stance most often; of equal ones, that which keeps more right answers.

    Args:
        names: The names of tried runs, in the order of the grid; the first of equal runs is taken.
        runs: The folder of their workspaces.

    Raises:
        InputError: No run prefers a stance.
    """
    tried = {name: Trial.read(runs / name) for name in names}
    aimed = [name for name, trial in tried.items() if trial.adherence.share is not None]
    if not aimed:
        raise InputError("no run of this grid prefers a stance, so none of them is best; leave out MERGE=best")
    return max(aimed, key=lambda name: tried[name].merit)


def far_from_merged(workspace: Path) -> str | None:
    """Return a sentence if the merged model of a run is not its adapter beside the base; None if it is."""
    from stance.runs.trials import against_merged  # takes seconds to import; other flows import this module, too

    trial = against_merged(workspace)
    assert trial.merged is not None
    assert trial.bounds is not None
    if trial.within:
        return None
    return (
        f"the merged model is {trial.merged.mean:.3g} nats per token from the adapter that was tried, and at most "
        f"{trial.merged.worst:.3g}; noise is up to {trial.bounds.mean:.3g} and {trial.bounds.worst:.3g}. So the merged "
        "models may have another order than the trials: make all of them with MERGE=all"
    )
