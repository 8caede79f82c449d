"""The DVC pipeline as a flow sees it: which stages there are, in which order, why one runs, and how to run it.

Everything is read from `dvc.yaml` and `dvc.lock`; no name, path or edge stands here. A stage runs under a guard, so
that no training process is left on the GPU when the flow is cancelled or killed.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path, PurePath
from typing import IO, Literal, cast

from dvc.dvcfile import Lockfile
from dvc.repo import Repo
from networkx import lexicographical_topological_sort

from stance.machine.files import flat, read_yaml
from stance.machine.processes import environment
from stance.machine.supervisor import GRACE, MARK, PEAK, guarded, release

TIMED_OUT = 124
"""How coreutils' `timeout` ends when it has ended the command."""
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


def reproduce(
    stage: str, folder: Path, log: Callable[[str], None], hold: Sequence[IO[str]] = (), minutes: float = 0
) -> Outcome:
    """Bring one stage up to date, its dependencies being so already, and say what that took.

    Args:
        stage: Its name in `dvc.yaml`.
        folder: The project, or a workspace of it.
        log: Gets every line that DVC and the stage print, as it is printed, and at last the guard's `PEAK`.
        hold: Files that stay open until nothing of the stage is left; a lock on one lasts as long.
        minutes: How long it may take; 0 for as long as it likes.

    Raises:
        ConnectionError: A server did not answer, and may do so later.
        TimeoutError: The stage took too long.
        RuntimeError: The stage failed for another reason.
    """
    restore_from_run_cache(stage, folder)
    pull = ["--pull"] if remote(folder) else []
    command = ["repro", "--single-item", *pull, stage]
    code, printed = dvc(command, folder, log, hold, minutes)
    if code == TIMED_OUT:
        raise TimeoutError(
            f"stage {stage} took longer than {minutes:g} minutes; retry, and it goes on from its checkpoint"
        )
    if code:
        raise failure(stage, code, printed, pulling=bool(pull))
    return outcome(printed)


def restore_from_run_cache(stage: str, folder: Path) -> None:
    """Let DVC restore what a stage has made here before, when `dvc.lock` names what only another machine has.

    DVC 3.67 does not ask its run cache about a stage that agrees with its entry in `dvc.lock`, and runs it again if the
    outputs named there are in no cache: with another machine's lock, every run would make its own base model.
    """
    with Repo(str(folder)) as repo, repo.lock:
        [known] = (other for other in repo.index.stages if other.name == stage)
        kept = any(out.persist for out in known.outs)  # DVC remembers nothing of such a stage
        if kept or known.outs_cached() or known.changed_deps():
            return
        made = repo.stage_cache._load(known)
        if made and all(repo.cache.local.exists(out["md5"]) for out in made["outs"]):
            Lockfile(repo, str(folder / "dvc.lock")).remove_stage(known)


def dvc(
    arguments: Sequence[str], folder: Path, log: Callable[[str], None], hold: Sequence[IO[str]] = (), minutes: float = 0
) -> tuple[int, str]:
    """Run DVC under a guard, as `reproduce` says, and return its exit code and what it printed."""
    command = ["timeout", f"--kill-after={GRACE}", str(60 * minutes), sys.executable, "-m", "dvc", *arguments]
    belonging = {**environment(), MARK: str(folder)}
    held = [file.fileno() for file in hold]
    process = guarded(
        command, cwd=folder, env=belonging, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=held
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            log(line.rstrip())
            if not PEAK.match(line):  # that is the guard's
                lines.append(line)
    finally:
        release(process)
    return process.returncode, "".join(lines)


def failure(stage: str, code: int, log: str, *, pulling: bool) -> Exception:
    """Return why a stage failed, in its own words if it found any.

    With a remote, what fails before the stage has begun is the remote: DVC asks it first.
    """
    away = re.search(rf"exited with {os.EX_TEMPFAIL}$", log, re.MULTILINE)
    said = re.findall(r"^error: (.+)$", log, re.MULTILINE) or [f"`dvc repro {stage}` exited with {code}, see its log"]
    kind = ConnectionError if away or (pulling and "Running stage" not in log) else RuntimeError
    return kind(f"stage {stage} failed: {said[-1]}")


def remote(folder: Path) -> str | None:
    """Return the DVC remote that machines share, if the project has a default one."""
    with Repo(str(folder)) as repo:
        return cast(str | None, repo.config["core"].get("remote"))


def push(folder: Path, log: Callable[[str], None]) -> None:
    """Give other machines what the stages have made, and what they made it from.

    Raises:
        ConnectionError: The remote does not answer, or not as it should.
    """
    code, printed = dvc(["push", "--run-cache"], folder, log)
    if code:
        said = printed.strip().splitlines() or ["no message"]
        raise ConnectionError(f"`dvc push` to the remote {remote(folder)} failed: {said[-1]}; see `dvc remote list`")
    with Repo(str(folder)) as repo:  # DVC 3.67 leaves out what git keeps, and then restores no stage with metrics
        kept = [out.hash_info for stage in repo.index.stages for out in stage.outs if not out.use_cache]
        done = repo.cloud.push([known for known in kept if known and repo.cache.local.exists(known.value)])
    if done.failed:
        raise ConnectionError(f"`dvc push` to the remote {remote(folder)} failed for {len(done.failed)} metrics")


def outcome(log: str) -> Outcome:
    """Return what DVC did, by the line in which it says so."""
    return next(meaning for pattern, meaning in OUTCOMES if re.search(pattern, log, re.MULTILINE))


def reasons(stage: str, folder: Path) -> list[str]:
    """Return why a stage is out of date, its dependencies being up to date: parameters with their values, and files."""
    with Repo(str(folder)) as repo, repo.lock:
        [known] = (other for other in repo.index.stages if other.name == stage)
        changes = known.status().values()
    found: list[str] = []
    for change in chain(*changes):
        for kind, paths in change.items() if isinstance(change, dict) else [(change, {})]:
            if not paths:
                found.append(str(kind))
            for path, state in paths.items():
                found += changed_values(stage, folder) if isinstance(state, dict) else [f"{path} {state}"]
    return sorted(found, key=lambda why: "→" not in why)  # parameters first: somebody meant them


def changed_values(stage: str, folder: Path) -> list[str]:
    """Return the parameters of a stage that are not what it last ran with, each with its old and new value."""
    locked = read_yaml(folder / "dvc.lock")["stages"].get(stage, {}) if (folder / "dvc.lock").exists() else {}
    before = dict(flat(locked.get("params", {}).get("params.yaml", {})))
    values = dict(flat(read_yaml(folder / "params.yaml")))
    listed = tuple(read_yaml(folder / "dvc.yaml")["stages"][stage].get("params", []))
    now = {key: value for key, value in values.items() if any(f"{key}.".startswith(f"{name}.") for name in listed)}
    keys = [key for key in (*now, *(before.keys() - now.keys())) if before.get(key) != now.get(key)]
    return [f"{key} {before.get(key, 'unset')} → {now.get(key, 'unset')}" for key in keys]


LOADER = PurePath("stance/models/loading.py")


def wanted(stage: str, folder: Path) -> bool:
    """Does the stage work on a GPU? Those do that depend on the module with which models are loaded.

    The second judge does only where it is the base model.
    """
    params = read_yaml(folder / "params.yaml")
    deps = read_yaml(folder / "dvc.yaml")["stages"][stage].get("deps", [])
    loads = any(LOADER.is_relative_to(dep) for dep in deps)
    idle = stage == "judge" and params["evaluate"]["judge"]["source"] != "base_model"
    return loads and not idle and bool(params["model"]["device"] == "cuda")
