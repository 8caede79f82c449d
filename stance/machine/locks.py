"""Locks of the kernel (flock) on an open file: each is free once its holder has ended, however it ends."""

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
        path: The file that stands for it.
        refusal: What to say to who comes second.

    Raises:
        InputError: Somebody holds it.
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
    """Wait for the GPU and hold it; yields the file to hand to who works on it.

    Args:
        name: Who takes it, for those who wait.
        say: Gets a sentence if somebody has it.
        lock: The file that stands for the GPU.
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
