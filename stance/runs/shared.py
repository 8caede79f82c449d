"""Completed runs in the DVC remote: what a machine leaves there of a run, and how another machine takes it over.

The record of a run, `records/NAME.json` in the remote, holds `run.json` and `dvc.lock`. It is written after the outputs
that it names. So a record in the remote says that the outputs are there too.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dvc.output import Output
from dvc.repo import Repo
from pydantic import BaseModel, ConfigDict, ValidationError

from stance.config.profiles import Overrides
from stance.errors import InputError
from stance.machine.files import write_json
from stance.runs import stages, workspace
from stance.runs.lockfile import LOCK
from stance.runs.record import Run

LOGGER = logging.getLogger(__name__)


class Shared(BaseModel):
    """The record of a completed run in the remote."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Run
    lock: str
    """The text of `dvc.lock`."""


@contextmanager
def remote(folder: Path) -> Iterator[tuple[Any, str, Repo]]:
    """Open the default remote of a project: its file system, its folder for records, and the project's `Repo`.

    Raises:
        ConnectionError: The remote does not answer or fails.
    """
    with Repo(str(folder)) as repo:
        store = repo.cloud.get_remote()
        try:
            yield store.fs, store.fs.join(store.path, "records"), repo
        except Exception as error:  # every kind of remote has errors of its own
            reason = str(error) or type(error).__name__
            raise ConnectionError(f"the remote {store.name} does not answer or fails: {reason}") from error


def publish(folder: Path) -> None:
    """Write the record of the completed run in a workspace to the remote, which has its outputs already.

    Raises:
        ConnectionError: As in `remote`.
    """
    run = Run.read(folder)
    shared = Shared(run=run, lock=(folder / LOCK).read_text(encoding="utf-8"))
    with TemporaryDirectory() as scratch, remote(folder) as (files, records, _):
        path = Path(scratch) / f"{run.name}.json"
        write_json(path, shared.model_dump(mode="json"))
        files.makedirs(records, exist_ok=True)
        files.put_file(str(path), files.join(records, path.name))


def published(name: str) -> Shared | None:
    """Return the record that the remote of this project has of a run; None if it has none.

    Raises:
        ConnectionError: As in `remote`.
        InputError: The record is damaged.
    """
    with remote(Path()) as (files, records, _):
        path = files.join(records, f"{name}.json")
        try:
            content = files.cat_file(path)
        except FileNotFoundError:
            return None
    try:
        return Shared.model_validate_json(content)
    except ValidationError as error:
        raise InputError(
            f"{path} in the remote is no record of a run ({error.errors()[0]['msg']}); remove it, and the run is made "
            "again"
        ) from None


def adopt(shared: Shared, changes: dict[str, Any], paths: Sequence[Path]) -> None:
    """Make a workspace here for a run of another machine, with some of the run's outputs.

    Args:
        shared: The record of the run in the remote.
        changes: The values that replace those in `params.yaml`.
        paths: The outputs to fetch, relative to the project. Files in them and folders around them count too. The
            metrics come always.

    Raises:
        ConnectionError: As in `remote`, or the remote lacks one of the outputs. No workspace is left.
    """
    name = shared.run.name
    folder = workspace.create(name, Overrides(changes=changes), edits=False, commit=shared.run.commit)
    try:
        (folder / LOCK).write_text(shared.lock, encoding="utf-8")
        fetch(folder, paths)
        shared.run.updated(folder, pid=None, started=None)
    except BaseException:
        workspace.remove(name)
        raise


def fetch(folder: Path, paths: Sequence[Path]) -> None:
    """Fetch outputs that `dvc.lock` names, and all metrics, from the remote, and remove the other outputs.

    The arguments and errors are those of `adopt`. The other outputs are those of the commit, and not of the run.
    """
    with remote(folder) as (_, _, repo):
        outs = [out for stage in repo.index.stages for out in stage.outs]
        in_git = [out for out in outs if not out.use_cache and not out.persist and out.hash_info]  # metrics and plots
        cached = [out for out in outs if out.use_cache and overlaps(out, paths)]
        for out in outs:
            if out not in cached:
                out.remove()
        repo.cloud.pull([out.hash_info for out in in_git])  # `dvc pull` leaves them out
        for out in in_git:
            os.makedirs(os.path.dirname(out.fs_path), exist_ok=True)
            shutil.copyfile(repo.cache.local.oid_to_path(out.hash_info.value), out.fs_path)
        paths_of_dvc = [str(Path(out.fs_path).relative_to(folder.resolve())) for out in cached]
    code, printed = stages.dvc(["pull", "--force", *paths_of_dvc], folder, LOGGER.debug)
    if code:
        raise ConnectionError(f"`dvc pull` of {folder.name} failed: {stages.last_line(printed)}")


def overlaps(out: Output, paths: Sequence[Path]) -> bool:
    """Is an output one of the paths, in one of them, or a folder around one of them?"""
    place = Path(out.fs_path).relative_to(out.repo.root_dir)
    return any(place.is_relative_to(path) or path.is_relative_to(place) for path in paths)
