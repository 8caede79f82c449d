"""Where a data set comes from: a local folder, or a git repository at one commit."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from stance.config.data import FolderDataset, GitDataset
from stance.data.questions import LABELLED, TEST
from stance.errors import InputError, Unreachable
from stance.machine.files import digest, from_project
from stance.machine.git import attempt

AWAY = re.compile(r"[Cc]ould not resolve|[Cc]onnect(ion|:| to)|timed out|early EOF|hung up|returned error: (5..|429)")
"""What git says of a server that may answer later."""


@contextmanager
def source_folder(source: FolderDataset | GitDataset) -> Iterator[Path]:
    """Give a folder with the two files of `source`; for git a temporary checkout, its hashes checked."""
    if isinstance(source, FolderDataset):
        yield from_project(source.path)
        return
    with TemporaryDirectory() as scratch:
        name = source.url.rstrip("/").rsplit("/", 1)[-1].removesuffix(".git")
        folder = Path(scratch) / f"{name}@{source.commit[:7]}"
        _checkout(source, folder)
        _check_hash(source, folder / LABELLED, source.labelled_data_sha256)
        _check_hash(source, folder / TEST, source.test_prompt_sha256)
        yield folder


def _checkout(source: GitDataset, folder: Path) -> None:
    folder.mkdir()
    local = from_project(Path(source.url))
    url = str(local.resolve()) if local.exists() else source.url
    _git(source, folder, "init", "--quiet")
    _git(source, folder, "fetch", "--quiet", "--depth=1", "--", url, source.commit)
    for name in (LABELLED, TEST):
        (folder / name).write_bytes(_git(source, folder, "show", f"FETCH_HEAD:{name}"))


def _git(source: GitDataset, folder: Path, *command: str) -> bytes:
    # Without these a private or missing repository would wait for a password.
    ended = attempt(folder, *command, GIT_TERMINAL_PROMPT="0", GIT_ASKPASS="true")
    if ended.returncode:
        reason = (ended.stderr.decode(errors="replace").strip() or "no message").splitlines()[0]  # the cause is first
        kind = Unreachable if AWAY.search(reason) else InputError
        raise kind(
            f"git {command[0]} of {source.url} at {source.commit} failed ({reason}); expected {LABELLED} and {TEST} "
            "there: check dataset.url, dataset.commit and the network"
        )
    return ended.stdout


def _check_hash(source: GitDataset, path: Path, expected: str) -> None:
    found = digest(path).sha256
    if found != expected:
        raise InputError(
            f"{path.name} of {source.url} has sha256 {found}, expected {expected}: the data is not what this profile "
            "was measured with; put the new hash into params.yaml if the change is wanted"
        )
