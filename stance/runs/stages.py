"""The stages of the DVC pipeline: their order, how to run one, and the GPUs that it needs.

Everything is read from `dvc.yaml` and `dvc.lock`; this module names no stage, path or edge. A stage runs under a guard,
so that no training process stays on the GPU when a flow is cancelled or killed.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Literal, cast

from dvc.repo import Repo
from networkx import lexicographical_topological_sort

from stance.machine.devices import NONE, SEVERAL, Lease
from stance.machine.files import read_yaml
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
    """Bring a stage up to date that `prepare` has left to be run, and return how: ran, restored or unchanged.

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
