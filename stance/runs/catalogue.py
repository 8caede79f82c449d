"""The runs of this project, and the command `python -m stance runs`.

`listing`, `show` and `compare` return tables; `apply` takes the results of a run over into the working tree; `remove`
deletes runs. `finished` and `find` look a run up by name, for other commands too.
"""

import argparse
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Column, Table

from stance.client.local import served_folders
from stance.data.metrics import METRICS
from stance.errors import InputError
from stance.machine.files import flat, read_json, read_yaml
from stance.machine.git import git
from stance.machine.processes import name_the_user
from stance.runs import record, workspace
from stance.runs.record import Run
from stance.runs.workspace import RUNS

MIB = 2**20
NO_TERMINAL = 500
"""The width of a file or a pipe that a table is written to, in columns."""


def listing() -> Table:
    """Return a table of all runs: state, settings, shares of both stances, and the disk space that each takes."""
    runs = workspace.all_runs()
    # The other commands need the whole name, so a narrow terminal takes the space from other columns.
    names = Column("run", no_wrap=True, min_width=max((len(run.name) for _, run in runs), default=0))
    table = Table(names, "state", "made", "set", "support", "oppose", "MiB")
    for folder, run in runs:
        shares = figures(folder, run).get("aligned", {})
        table.add_row(
            run.name,
            run.state,
            f"{run.created:%Y-%m-%d %H:%M}",
            ", ".join(f"{key}={value}" for key, value in settings(run)),
            *(f"{shares[side]:.0%}" if side in shares else "" for side in ("support", "oppose")),
            f"{disk(folder) / MIB:.1f}",
        )
    return table


def show(name: str) -> Table:
    """Return a table of the stages of a run: the outcome of each, and why it ran."""
    run = find(name)
    heading = f"{name}: {run.state}"
    table = Table("stage", "outcome", title=f"{heading} {run.problem or ''}", min_width=len(heading))
    for stage, outcome in run.stages.items():
        table.add_row(stage, outcome)
    table.caption = f"commit {run.snapshot[:12]}, workspace {RUNS / name}, log {RUNS / name / record.LOG}"
    return table


def compare(names: Sequence[str]) -> Table:
    """Return a table of the parameters and figures in which runs differ, with a column for each run."""
    facts = {name: everything(name) for name in names}
    table = Table("", *names)
    for key in dict.fromkeys(key for values in facts.values() for key in values):
        row = [values.get(key) for values in facts.values()]
        if any(value != row[0] for value in row):
            table.add_row(key, *map(shown, row))
    return table


def apply(name: str) -> list[Path]:
    """Take a run's `params.yaml`, `dvc.lock` and metrics over into the working tree, and return these files.

    Raises:
        InputError: The run did not complete, is of another commit, or the tree has edits.
    """
    folder, run = finished(name), find(name)
    if git(Path(), "status", "--porcelain"):
        raise InputError("the working tree has uncommitted edits, which would be lost; commit or stash them first")
    if run.snapshot != git(Path(), "rev-parse", "HEAD"):
        raise InputError(
            f"{name} was run on commit {run.snapshot[:12]}, not the current one; check that out, or run again"
        )
    metrics = [path.relative_to(folder) for _, path in workspace.in_git(folder)]
    paths = [Path("params.yaml"), Path("dvc.lock"), *metrics]
    for path in paths:
        shutil.copyfile(folder / path, path)
    return paths


def remove(names: Iterable[str]) -> None:
    """Remove workspaces. The outputs stay in DVC's cache until `dvc gc`.

    Raises:
        InputError: There is no such run, a process works on it, or the endpoint uses its model.
    """
    for name in names:
        run = find(name)
        if run.open and run.alive():
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
    run = find(name)
    if run.state != "completed":
        raise InputError(f"{name} is {run.state}; expected a completed run: bring it to its end, or take another")
    return (RUNS / name).resolve()


def find(name: str) -> Run:
    """Return a run by name.

    Raises:
        InputError: There is no such run; the error names all runs.
    """
    folder = RUNS / name
    if not (folder / record.RECORD).exists():
        names = ", ".join(run.name for _, run in workspace.all_runs()) or "there are none"
        raise InputError(f"there is no run {name}; expected one of: {names}")
    return Run.read(folder)


def settings(run: Run) -> list[tuple[str, Any]]:
    """Return the profile and the parameters that were set when a run was started."""
    profile = [("profile", run.profile)] if run.profile else []
    return [*profile, *run.overrides.items()]


def figures(folder: Path, run: Run) -> dict[str, Any]:
    """Return the metrics of a completed run; before that its workspace has those of the commit it started from."""
    return dict(read_json(folder / METRICS)) if run.state == "completed" and (folder / METRICS).exists() else {}


def everything(name: str) -> dict[str, Any]:
    """Return a run's parameters and figures under dotted keys."""
    run = find(name)
    return dict(flat(read_yaml(RUNS / name / "params.yaml"))) | dict(flat(figures(RUNS / name, run)))


def shown(value: Any) -> str:
    """Return a value as the text of a cell."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else yaml.safe_dump(value).split("\n")[0]


def disk(folder: Path) -> int:
    """Return the bytes that only this workspace holds. Files that are linked to the cache do not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a run that is going on may remove it
                file = Path(place, name).lstat()
                total += file.st_size if stat.S_ISREG(file.st_mode) and file.st_nlink == 1 else 0
    return total


def console() -> Console:
    """Return the console for tables. Where the output is no terminal, a table is as wide as its content."""
    return Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else NO_TERMINAL)


def main() -> None:
    """Run the action that the command line names."""
    parser = argparse.ArgumentParser(description="List, show, compare, apply or remove runs.")
    parser.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=["list", "show", "compare", "apply", "remove"],
        help="list: all runs (default); show: one run, stage by stage; compare: parameters and figures in which runs "
        "differ; apply: copy params.yaml, dvc.lock and metrics of a run into this folder; remove: delete workspaces",
    )
    parser.add_argument("names", nargs="*", help="names of runs; all actions but list need one")
    options = parser.parse_args()
    name_the_user()  # DVC, which reads the workspaces, asks for one
    if options.action != "list" and not options.names:
        raise InputError(f"{options.action} wants the name of a run; `python -m stance runs` lists them")
    match options.action:
        case "list":
            console().print(listing())
        case "show":
            console().print(show(options.names[0]))
        case "compare":
            console().print(compare(options.names))
        case "apply":
            copied = apply(options.names[0])
            print(f"copied from {options.names[0]}: {', '.join(map(str, copied))}")
            print("next: `make repro` takes the outputs from DVC's cache; `git checkout .` takes all of this back")
        case "remove":
            remove(options.names)
            print(f"removed: {', '.join(options.names)}; their outputs stay in DVC's cache until `dvc gc`")
