"""The stages of the DVC pipeline: their order, why a stage is out of date, and how to run it.

Everything is read from `dvc.yaml` and `dvc.lock`; this module names no stage, path or edge. A stage runs under a guard,
so that no training process stays on the GPU when a flow is cancelled or killed.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, Literal, cast

from dvc.dvcfile import Lockfile
from dvc.repo import Repo
from dvc.stage import PipelineStage
from networkx import lexicographical_topological_sort

from stance.machine.devices import NONE, SEVERAL, Lease
from stance.machine.files import flat, read_yaml
from stance.machine.processes import environment
from stance.machine.supervisor import GRACE, MARK, PEAK, guarded, release, unwatch
from stance.runs.fork_client import OWNER

TIMED_OUT = 124
"""The exit code of coreutils' `timeout` when the time was up."""
Outcome = Literal["ran", "restored", "unchanged"]
OUTCOMES: tuple[tuple[str, Outcome], ...] = (
    (r"^Running stage '", "ran"),
    (r"is cached - skipping run|^Pulling data for", "restored"),
    (r"didn't change, skipping", "unchanged"),
)


def names(folder: Path) -> list[str]:
    """Return the stages of `dvc.yaml`, each after those it depends on."""
    with Repo(str(folder)) as repo:
        graph = repo.index.graph.reverse(copy=True)
        return [stage.name for stage in lexicographical_topological_sort(graph, key=lambda stage: stage.name)]


def reproduce(stage: str, folder: Path, log: Callable[[str], None], lease: Lease = NONE, minutes: float = 0) -> Outcome:
    """Bring a stage up to date that `prepare` was called for, and return how: ran, restored or unchanged.

    Args:
        stage: The stage's name in `dvc.yaml`.
        folder: The project, or a workspace of it.
        log: Called with every line that DVC and the stage print, and at the end with the guard's `PEAK`.
        lease: The GPUs that the stage sees. It ends with the stage, before DVC hashes the outputs, where the stage is a
            fork (`fork_client.py`), and otherwise when no process of the stage is left.
        minutes: The time limit of the stage; 0 for none.

    Raises:
        ConnectionError: A server did not answer; it may do so later.
        TimeoutError: The stage took too long.
        RuntimeError: The stage failed for another reason.
    """
    pull = ["--pull"] if remote(folder) else []
    command = ["repro", "--single-item", *pull, stage]
    code, printed = dvc(command, folder, log, lease, minutes)
    if code == TIMED_OUT:
        raise TimeoutError(
            f"stage {stage} took longer than {minutes:g} minutes; retry, and it goes on from its checkpoint"
        )
    if code:
        raise failure(stage, code, printed, pulling=bool(pull))
    return outcome(printed)


def prepare(stage: str, folder: Path) -> list[str]:
    """Return why a stage is out of date whose dependencies are not, and let DVC restore what it made here before.

    The reasons are its changed parameters, with values, and its changed files.
    """
    with Repo(str(folder)) as repo, repo.lock:
        [entry] = (other for other in repo.index.stages if other.name == stage)
        changes = chain(*entry.status().values())
        restore_from_run_cache(entry)
    return reasons(changes, stage, folder)


def restore_from_run_cache(entry: PipelineStage) -> None:
    """Let DVC restore what a stage made here before, if `dvc.lock` names outputs that only another machine has.

    DVC 3.67 does not ask its run cache about a stage that agrees with its entry in `dvc.lock`. If the outputs of that
    entry are in no cache, it runs the stage again: with another machine's lock, every run would make a base model. This
    function removes such an entry, if the run cache has the stage.
    """
    repo = entry.repo
    persistent = any(out.persist for out in entry.outs)  # the run cache has no such stage
    if persistent or entry.outs_cached() or entry.changed_deps():
        return
    earlier = repo.stage_cache._load(entry)
    if earlier and all(repo.cache.local.exists(out["md5"]) for out in earlier["outs"]):
        Lockfile(repo, str(Path(repo.root_dir) / "dvc.lock")).remove_stage(entry)


def dvc(
    arguments: Sequence[str], folder: Path, log: Callable[[str], None], lease: Lease = NONE, minutes: float = 0
) -> tuple[int, str]:
    """Run DVC under a guard and return its exit code and its output; arguments as for `reproduce`."""
    command = ["timeout", f"--kill-after={GRACE}", str(60 * minutes), sys.executable, "-m", "dvc", *arguments]
    variables = {**environment(), **lease.variables(), MARK: str(folder), OWNER: str(os.getpid())}
    files = [file.fileno() for file in lease.files]
    process = guarded(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=files
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            log(line.rstrip())
            peak = PEAK.match(line)
            if not peak:
                lines.append(line)
            elif not peak[2]:  # the stage has ended, and DVC hashes what it made
                lease.end()
                unwatch(process)
    finally:
        release(process)
    return process.returncode, "".join(lines)


def failure(stage: str, code: int, log: str, *, pulling: bool) -> Exception:
    """Return the error of a failed stage, with the stage's own message if it printed one.

    DVC asks the remote first. So if there is one and the stage has not begun, the remote has failed.
    """
    away = re.search(rf"exited with {os.EX_TEMPFAIL}$", log, re.MULTILINE)
    remote_failed = pulling and "Running stage" not in log
    errors = re.findall(r"^error: (.+)$", log, re.MULTILINE)
    if remote_failed and not errors:  # DVC's own sentence
        errors = re.findall(r"^ERROR: (?:unexpected error - )?(.+)$", log, re.MULTILINE)
    problem = errors[-1] if errors else f"`dvc repro {stage}` exited with {code}, see its log"
    return (ConnectionError if away or remote_failed else RuntimeError)(f"stage {stage} failed: {problem}")


def remote(folder: Path) -> str | None:
    """Return the name of the default DVC remote, which machines share; None if there is none."""
    with Repo(str(folder)) as repo:
        return cast(str | None, repo.config["core"].get("remote"))


def push(folder: Path, log: Callable[[str], None]) -> None:
    """Push the outputs of the stages and the run cache to the DVC remote, where other machines find them.

    Raises:
        ConnectionError: The remote does not answer or fails.
    """
    code, printed = dvc(["push", "--run-cache"], folder, log)
    if code:
        reason = last_line(printed)
        raise ConnectionError(f"`dvc push` to the remote {remote(folder)} failed: {reason}; see `dvc remote list`")
    with Repo(str(folder)) as repo:  # DVC 3.67 leaves out the files in git, and then restores no stage with metrics
        hashes = [out.hash_info for stage in repo.index.stages for out in stage.outs if not out.use_cache]
        transfer = repo.cloud.push([info for info in hashes if info and repo.cache.local.exists(info.value)])
    if transfer.failed:
        raise ConnectionError(f"`dvc push` to the remote {remote(folder)} failed for {len(transfer.failed)} metrics")


def last_line(printed: str) -> str:
    """Return the last line of what DVC printed."""
    return (printed.strip().splitlines() or ["no message"])[-1]


def outcome(log: str) -> Outcome:
    """Return the outcome of a stage, which a line of DVC's log tells."""
    return next(meaning for pattern, meaning in OUTCOMES if re.search(pattern, log, re.MULTILINE))


def reasons(changes: Iterable[Any], stage: str, folder: Path) -> list[str]:
    """Return what DVC says about a stage that is out of date, a sentence for each parameter and file."""
    causes: list[str] = []
    for change in changes:
        for kind, paths in change.items() if isinstance(change, dict) else [(change, {})]:
            if not paths:
                causes.append(str(kind))
            for path, state in paths.items():
                causes += changed_values(stage, folder) if isinstance(state, dict) else [f"{path} {state}"]
    return sorted(causes, key=lambda cause: "→" not in cause)  # parameters first: a person changed them


def changed_values(stage: str, folder: Path) -> list[str]:
    """Return the parameters of a stage that have changed since it last ran, each with its old and new value."""
    locked = read_yaml(folder / "dvc.lock")["stages"].get(stage, {}) if (folder / "dvc.lock").exists() else {}
    before = dict(flat(locked.get("params", {}).get("params.yaml", {})))
    values = dict(flat(read_yaml(folder / "params.yaml")))
    listed = tuple(read_yaml(folder / "dvc.yaml")["stages"][stage].get("params", []))
    now = {key: value for key, value in values.items() if any(f"{key}.".startswith(f"{name}.") for name in listed)}
    keys = [key for key in (*now, *(before.keys() - now.keys())) if before.get(key) != now.get(key)]
    return [f"{key} {before.get(key, 'unset')} → {now.get(key, 'unset')}" for key in keys]


LOADER = PurePath("stance/models/loading.py")


def needs_gpu(stage: str, folder: Path) -> bool:
    """Does a stage work on a GPU?

    A stage does if it depends on the module that loads models. The stage `judge` does only if its second judge is the
    base model, and a stage of the long road only if it is on the road of the run.
    """
    params = read_yaml(folder / "params.yaml")
    deps = read_yaml(folder / "dvc.yaml")["stages"][stage].get("deps", [])
    loads = any(LOADER.is_relative_to(dep) for dep in deps)
    idle = stage == "judge" and params["evaluate"]["judge"]["source"] != "base_model"
    reinforced = params.get("align", {}).get("method") == "rlhf"
    idle |= stage in params and params[stage] is None
    idle |= not reinforced if stage in ("reward", "rl") else stage == "train" and reinforced
    return loads and not idle and bool(params["model"]["device"] == "cuda")


def devices(stage: str, folder: Path) -> int:
    """Return the number of GPUs that a stage leases, 0 if it works on none."""
    if not needs_gpu(stage, folder):
        return 0
    command = read_yaml(folder / "dvc.yaml")["stages"][stage]["cmd"].split()
    return int(read_yaml(folder / "params.yaml")["model"].get("devices", 1)) if SEVERAL.intersection(command) else 1
