"""Locks on files (flock). The kernel frees a lock when its holder ends, even after `kill -9`."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stance.errors import InputError


@contextmanager
def exclusive(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: The file to lock.
        refusal: The error message if another process holds the lock.

    Raises:
        InputError: Another process holds the lock.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        if not locked(file):
            raise InputError(refusal)
        yield


def locked(file: IO[str], *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file, and return whether that succeeded. The lock ends when the file is closed everywhere."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
