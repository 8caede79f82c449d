"""Refuse everything below a folder that is no plain file: what is hashed, copied and published is then a file's own."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from stance.errors import InputError
from stance.machine.digests import Digests

KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_plain(folder: Path, outputs: Iterable[str]) -> None:
    """Refuse outputs of a run that hold anything but plain files, and folders with files in them.

    Args:
        folder: The folder of the run.
        outputs: Files and folders in it. Such a folder may itself be a link, for example to a larger disk.

    Raises:
        InputError: An output is or holds a link, a device, or an empty folder; names it.
    """
    paths = [folder / output for output in outputs if os.path.lexists(folder / output)]
    problems = [problem for path in paths for problem in _odd(path.resolve() if path.is_dir() else path)]
    if problems:
        raise InputError(
            f"{'; '.join(problems)}; expected plain files, whose content a release can hold: put the file itself "
            "there, or run `make repro`"
        )


def _odd(path: Path) -> Iterator[str]:
    mode = path.lstat().st_mode
    if kind := next((name for is_kind, name in KINDS if is_kind(mode)), None):
        yield f"{path} is {kind}"
    elif stat.S_ISDIR(mode):
        entries = sorted(path.iterdir())
        if not entries:
            yield f"{path} is an empty folder"
        for entry in entries:
            yield from _odd(entry)


def require_own_names(folder: Path, digests: Digests, cache: Path) -> None:
    """Refuse files that have another name outside the run, by which somebody can change them.

    Args:
        folder: The folder of the run.
        digests: The digests of the files, by path in the folder.
        cache: DVC's cache. A file that DVC has linked out of it is allowed: DVC writes to none.

    Raises:
        InputError: A file has another hard link; names it.
    """
    for name, digest in digests.items():
        if (folder / name).stat().st_nlink > 1 and not _in_cache(folder / name, digest.md5, cache):
            raise InputError(
                f"{folder / name} has another name (a hard link), by which its content can change; replace it by a "
                "copy of itself, or, if an earlier version of this project has linked it, move data/release away"
            )


def _in_cache(path: Path, md5: str, cache: Path) -> bool:
    stored = cache / "files/md5" / md5[:2] / md5[2:]
    return stored.exists() and stored.samefile(path)
