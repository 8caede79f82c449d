"""Locks on files (flock). The kernel frees a lock when its holder ends, even after `kill -9`."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(refusal) from None
        yield
