"""Why a stage is out of date, and what brings it up to date at once: its outputs in DVC's cache.

This happens in the calling process, in some tenths of a second. A process of DVC takes more than a second, so only a
stage that runs gets one (`stages.reproduce`).
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import PipelineStage, create_stage
from dvc.stage.cache import _can_hash, _get_stage_hash
from dvc.stage.loader import StageLoader
from dvc.stage.serialize import to_lockfile, to_single_stage_lockfile
from dvc.utils.serialize import dump_yaml, load_yaml
from dvc_data.hashfile.hash_info import HashInfo

from stance.machine.files import flat, read_yaml
from stance.machine.locks import locked
from stance.runs.lockfile import LOCK, Lock
from stance.runs.stages import Outcome

logging.getLogger("dvc").setLevel(logging.WARNING)  # DVC's sentences about a stage; the flow has its own
TURNS = "turns"
"""Folder of the lock files in DVC's cache, which all runs of a project on a machine share."""


class Prepared(NamedTuple):
    """What is known of a stage whose dependencies are up to date."""

    reasons: list[str]
    """Why it was out of date: its changed parameters, with values, and its changed files."""
    outcome: Outcome | None
    """How it was brought up to date; None if it must run or a remote may have its outputs."""
    turn: Path | None
    """A file to lock while it runs, the same for all runs in which it would make the same; None if DVC keeps nothing
    of it by which other runs could have it."""


def prepare(stage: str, folder: Path) -> Prepared:
    """Bring a stage up to date whose dependencies are, unless it must run for that.

    Args:
        stage: The stage's name in `dvc.yaml`.
        folder: The project, or a workspace of it.

    Raises:
        ConnectionError: Another process works with DVC in this folder; it may have ended later.
        RuntimeError: DVC refuses the stage, a dependency is missing for example.
    """
    try:
        with Repo(str(folder)) as repo, repo.lock:
            return prepared(repo, stage, folder)
    except DvcException as error:
        kind = ConnectionError if isinstance(error, LockError) else RuntimeError
        raise kind(f"stage {stage} failed: {error}") from None


def prepared(repo: Repo, stage: str, folder: Path) -> Prepared:
    """Do what `prepare` does, in an open and locked project."""
    entry = load(repo, stage)
    repo.stage_cache._create_stage = lambda cache, wdir=None: with_outputs(entry, cache)
    if not (changes := list(chain(*entry.status().values()))):
        return Prepared([], "unchanged", None)
    causes, now = reasons(changes, stage, folder), load(repo, stage)
    now.save_deps()
    if entry.frozen or not _can_hash(now):
        return Prepared(causes, None, None)
    turn = Path(repo.cache.local.path).parents[1] / TURNS / str(_get_stage_hash(now))
    return Prepared(causes, "restored" if restored(entry, now) else None, turn)


def load(repo: Repo, stage: str) -> PipelineStage:
    """Return a stage with its entry in `dvc.lock`, without the graph of all stages."""
    return repo.stage.load_one(str(Path(repo.root_dir) / "dvc.yaml"), stage)


def restored(entry: PipelineStage, now: PipelineStage) -> bool:
    """Let DVC restore a stage, if its cache has what the stage makes; return whether it has.

    DVC 3.67 itself does not look into its run cache if a stage agrees with its entry in `dvc.lock` and the outputs of
    that entry are in no cache: with another machine's lock, every run would make a base model.

    Args:
        entry: The stage, which is out of date.
        now: The same with the hashes of its present dependencies.
    """
    if not (entry.already_cached() and with_outputs(entry, to_single_stage_lockfile(entry)).outs_cached()):
        earlier = entry.repo.stage_cache._load(now)
        if not earlier or not with_outputs(entry, earlier).outs_cached():
            return False
        for out in entry.outs:
            out.hash_info = HashInfo()
    entry.run()
    write_entry(entry)
    return True


def with_outputs(entry: PipelineStage, locked_stage: Mapping[str, Any]) -> PipelineStage:
    """Return a stage that restores its outputs, those in git too.

    It stands in for DVC's own function, which only works in the current folder.
    """
    outs = [out["path"] for out in locked_stage["outs"]]
    path, repo = entry.path, entry.repo
    stage = create_stage(PipelineStage, repo=repo, path=path, cmd=locked_stage["cmd"], wdir=entry.wdir, outs=outs)
    StageLoader.fill_from_lock(stage, locked_stage)
    return stage


def write_entry(entry: PipelineStage) -> None:
    """Write a stage's entry to `dvc.lock`, as a whole: the bytes that DVC writes, which itself takes twice as long."""
    path = Path(entry.repo.root_dir) / LOCK
    lock = load_yaml(str(path)) if path.exists() else {"schema": "2.0"}
    part = path.with_suffix(".part")
    dump_yaml(str(part), lock | {"stages": lock.get("stages", {}) | to_lockfile(entry)})
    os.replace(part, path)


@contextmanager
def in_turn(turn: Path | None, say: Callable[[str], None]) -> Iterator[bool]:
    """Hold the lock of a stage while the block runs, so that runs which need the same do not make it twice.

    A stage that fails is tried by each of them. Where files cannot be locked, nobody waits.

    Args:
        turn: The file, from `prepare`; None for no lock.
        say: Receives a sentence if another run has it.

    Yields:
        Whether another run had the lock, so that the stage may be restored now.
    """
    with ExitStack() as opened:
        waited = False
        if turn and (file := openable(turn)):
            opened.enter_context(file)
            try:
                if waited := not locked(file):
                    say("another run makes the same; waiting for it")
                    locked(file, wait=True)
            except OSError:
                waited = False
        yield waited


def openable(path: Path) -> IO[str] | None:
    """Open a file to lock; None if this user may not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError:
        return None


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
    entry = Lock.read(folder).stages.get(stage, {}) if (folder / LOCK).exists() else {}
    before = dict(flat(entry.get("params", {}).get("params.yaml", {})))
    values = dict(flat(read_yaml(folder / "params.yaml")))
    listed = tuple(read_yaml(folder / "dvc.yaml")["stages"][stage].get("params", []))
    now = {key: value for key, value in values.items() if any(f"{key}.".startswith(f"{name}.") for name in listed)}
    keys = [key for key in (*now, *(before.keys() - now.keys())) if before.get(key) != now.get(key)]
    return [f"{key} {before.get(key, 'unset')} → {now.get(key, 'unset')}" for key in keys]
