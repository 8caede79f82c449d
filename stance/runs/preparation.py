"""Why a stage is out of date, and what brings it up to date at once: its outputs in DVC's cache, or a note.

All of this happens in the calling process, in a tenth of a second. A process of DVC takes more than a second, so only a
stage that computes gets one (`stages.reproduce`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from dvc.repo import Repo
from dvc.stage import PipelineStage, create_stage
from dvc.stage.cache import _can_hash, _get_stage_hash
from dvc.stage.loader import StageLoader
from dvc.stage.serialize import to_lockfile, to_single_stage_lockfile
from dvc.utils.serialize import dump_yaml

from stance.machine.files import flat, read_yaml
from stance.machine.locks import locked
from stance.runs.lockfile import LOCK, Lock
from stance.runs.stages import Outcome, left_out

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
    """
    with Repo(str(folder)) as repo, repo.lock:
        entry = load(repo, stage)
        if not (changes := list(chain(*entry.status().values()))):
            return Prepared([], "unchanged", None)
        causes = reasons(changes, stage, folder)
        now = load(repo, stage)
        now.save_deps()
        key = str(_get_stage_hash(now)) if _can_hash(now) else None  # DVC's name for what the stage makes now
        turn = Path(repo.cache.local.path).parents[1] / TURNS / key if key else None
        return Prepared(causes, settle(entry, now if key else None, idle=left_out(stage, folder)), turn)


def load(repo: Repo, stage: str) -> PipelineStage:
    """Return a stage with its entry in `dvc.lock`, without the graph of all stages."""
    return repo.stage.load_one(str(Path(repo.root_dir) / "dvc.yaml"), stage)


def settle(entry: PipelineStage, now: PipelineStage | None, *, idle: bool) -> Outcome | None:
    """Bring a stage up to date without a computation, and return how; None if it must compute.

    Args:
        entry: The stage, which is out of date.
        now: The same with the hashes of its present dependencies; None if DVC keeps nothing of it.
        idle: Is the stage not on the road of the run, so that it only leaves a note?
    """
    cached = now and (of_lock(entry) or of_run_cache(now))
    if cached:
        entry.remove_outs()
        cached.checkout()
        entry.save(run_cache=False)
    elif idle:
        entry.run(force=True, no_commit=True)
    else:
        return None
    entry.commit()
    write_entry(entry)
    return "restored" if cached else "ran"


def of_lock(entry: PipelineStage) -> PipelineStage | None:
    """Return the stage to restore that agrees with its entry in `dvc.lock`, if DVC's cache has its outputs."""
    return with_outputs(entry, to_single_stage_lockfile(entry)) if entry.already_cached() else None


def of_run_cache(now: PipelineStage) -> PipelineStage | None:
    """Return the stage to restore that DVC's run cache has, if the cache has its outputs.

    DVC 3.67 itself does not look there if a stage agrees with its entry in `dvc.lock` and the outputs of that entry are
    in no cache: with another machine's lock, every run would make a base model.
    """
    earlier = now.repo.stage_cache._load(now)
    stage = with_outputs(now, earlier) if earlier else None
    return stage if stage and stage.outs_cached() else None


def with_outputs(entry: PipelineStage, locked_stage: Mapping[str, Any]) -> PipelineStage:
    """Return a stage that restores its outputs, those in git too; DVC's own works in the current folder only."""
    outs = [out["path"] for out in locked_stage["outs"]]
    path, repo = entry.path, entry.repo
    stage = create_stage(PipelineStage, repo=repo, path=path, cmd=locked_stage["cmd"], wdir=entry.wdir, outs=outs)
    StageLoader.fill_from_lock(stage, locked_stage)
    return stage


def write_entry(entry: PipelineStage) -> None:
    """Write a stage's entry to `dvc.lock`: the bytes that DVC writes, which itself takes three times as long."""
    path = Path(entry.repo.root_dir) / LOCK
    before = Lock.read(path.parent).stages if path.exists() else {}
    dump_yaml(str(path), {"schema": "2.0", "stages": before | to_lockfile(entry)})


@contextmanager
def in_turn(turn: Path | None, say: Callable[[str], None]) -> Iterator[bool]:
    """Hold the lock of a stage while the block runs, so that runs which need the same do not make it twice.

    Args:
        turn: The file, from `prepare`; None for no lock.
        say: Receives a sentence if another run has it.

    Yields:
        Whether another run had the lock, so that the stage may be restored now.
    """
    if turn is None:
        yield False
        return
    turn.parent.mkdir(parents=True, exist_ok=True)
    with turn.open("a", encoding="utf-8") as file:
        free = locked(file)
        if not free:
            say("another run makes the same; waiting for it")
            locked(file, wait=True)
        try:
            yield not free
        finally:
            turn.unlink(missing_ok=True)


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
