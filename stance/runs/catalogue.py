"""The runs that there are: `python -m stance runs`, and with `show`, `compare`, `apply` or `remove` and their names."""

import argparse
import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from stance.client.local import served_folders
from stance.errors import InputError
from stance.machine.files import flat, read_json, read_yaml
from stance.machine.git import git
from stance.runs import record, workspace
from stance.runs.record import METRICS, Run
from stance.runs.workspace import RUNS

MIB = 2**20


def listing() -> Table:
    """Return all runs: state, what was set, what came of it, and the disk that they take."""
    table = Table("run", "state", "made", "set", "support", "oppose", "MiB")
    for folder, known in workspace.every():
        shares = figures(folder).get("aligned", {}) if known.state == "completed" else {}
        table.add_row(
            known.name,
            known.state,
            f"{known.created:%Y-%m-%d %H:%M}",
            ", ".join(f"{key}={value}" for key, value in given(known)),
            *(f"{shares[side]:.0%}" if side in shares else "" for side in ("support", "oppose")),
            f"{disk(folder) / MIB:.1f}",
        )
    return table


def show(name: str) -> Table:
    """Return what a run did, stage by stage, and why."""
    known = find(name)
    table = Table("stage", "outcome", title=f"{name}: {known.state} {known.problem or ''}")
    for stage, said in known.stages.items():
        table.add_row(stage, said)
    table.caption = f"commit {known.snapshot[:12]}, workspace {RUNS / name}, log {RUNS / name / record.LOG}"
    return table


def compare(names: Sequence[str]) -> Table:
    """Return the parameters and figures in which runs differ, a column for each."""
    facts = {name: everything(name) for name in names}
    table = Table("", *names)
    for key in dict.fromkeys(key for values in facts.values() for key in values):
        row = [values.get(key) for values in facts.values()]
        if any(value != row[0] for value in row):
            table.add_row(key, *map(shown, row))
    return table


def apply(name: str) -> None:
    """Take a run's `params.yaml`, `dvc.lock` and metrics over into the working tree.

    Raises:
        InputError: The run did not complete, is of another commit, or the tree has edits.
    """
    folder, known = finished(name), find(name)
    if git(Path(), "status", "--porcelain"):
        raise InputError("the working tree has uncommitted edits, which would be lost; commit or stash them first")
    if known.snapshot != git(Path(), "rev-parse", "HEAD"):
        raise InputError(
            f"{name} was run on commit {known.snapshot[:12]}, not the current one; check that out, or run again"
        )
    metrics = [path.relative_to(folder) for _, path in workspace.in_git(folder)]
    for path in (Path("params.yaml"), Path("dvc.lock"), *metrics):
        shutil.copyfile(folder / path, path)


def remove(names: Iterable[str]) -> None:
    """Remove workspaces; what DVC has cached stays until `dvc gc`.

    Raises:
        InputError: There is no such run, or somebody works on it.
    """
    for name in names:
        known = find(name)
        if known.open and known.alive():
            raise InputError(f"{name} is running; cancel it first")
        if str((RUNS / name).resolve()) in served_folders():
            raise InputError(
                f"the endpoint serves {name}, or stands ready to go back to it; end it first: "
                "`python -m stance serve stop`"
            )
        workspace.remove(name)


def finished(name: str) -> Path:
    """Return the workspace of a completed run.

    Raises:
        InputError: There is no such run, or it is not complete.
    """
    known = find(name)
    if known.state != "completed":
        raise InputError(f"{name} is {known.state}; expected a completed run: bring it to its end, or take another")
    return (RUNS / name).resolve()


def find(name: str) -> Run:
    """Return a run by name.

    Raises:
        InputError: There is no such run; names those that there are.
    """
    folder = RUNS / name
    if not (folder / record.RECORD).exists():
        known = ", ".join(known.name for _, known in workspace.every()) or "there are none"
        raise InputError(f"there is no run {name}; expected one of: {known}")
    return Run.read(folder)


def given(known: Run) -> list[tuple[str, Any]]:
    """Return what was set when a run was started."""
    profile = [("profile", known.profile)] if known.profile else []
    return [*profile, *known.overrides.items()]


def figures(folder: Path) -> dict[str, Any]:
    """Return a run's metrics, as far as there are any."""
    return dict(read_json(folder / METRICS)) if (folder / METRICS).exists() else {}


def everything(name: str) -> dict[str, Any]:
    """Return a run's parameters and figures under dotted keys."""
    find(name)
    return dict(flat(read_yaml(RUNS / name / "params.yaml"))) | dict(flat(figures(RUNS / name)))


def shown(value: Any) -> str:
    """Return a value as a cell."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else yaml.safe_dump(value).split("\n")[0]


def disk(folder: Path) -> int:
    """Return the bytes that are in a workspace alone; what is linked to the cache is not."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # of a run that is going on
                file = Path(place, name).lstat()
                total += file.st_size if stat.S_ISREG(file.st_mode) and file.st_nlink == 1 else 0
    return total


def main() -> None:
    """Do what the command line asks for."""
    ask = argparse.ArgumentParser(description="List, show, compare, apply or remove runs.")
    ask.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=["list", "show", "compare", "apply", "remove"],
        help="list: all runs (default); show: one run, stage by stage; compare: parameters and figures in which runs "
        "differ; apply: copy params.yaml, dvc.lock and metrics of a run into this folder; remove: delete workspaces",
    )
    ask.add_argument("names", nargs="*", help="names of runs; all actions but list need one")
    asked = ask.parse_args()
    if asked.action != "list" and not asked.names:
        raise InputError(f"{asked.action} wants the name of a run; `python -m stance runs` lists them")
    match asked.action:
        case "list":
            Console().print(listing())
        case "show":
            Console().print(show(asked.names[0]))
        case "compare":
            Console().print(compare(asked.names))
        case "apply":
            apply(asked.names[0])
        case "remove":
            remove(asked.names)
