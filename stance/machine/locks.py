"""Locks on files (flock). The kernel frees a lock when its holder ends, even after `kill -9`."""

import fcntl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stance.errors import InputError

GPU_LOCK = Path(tempfile.gettempdir()) / "stance-pipeline.gpu"


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


@contextmanager
def gpu_lock(name: str, say: Callable[[str], None], lock: Path = GPU_LOCK) -> Iterator[IO[str]]:
    """Wait for the GPU and hold it; yield the open file, which the process that works on the GPU inherits.

    Args:
        name: Name of the holder, shown to those who wait.
        say: Receives a sentence if another run holds the GPU.
        lock: The file to lock.
    """
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            say(f"waiting for the GPU, which {file.read() or 'another run'} has")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(name)
        file.flush()
        yield file
