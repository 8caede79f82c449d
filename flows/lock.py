"""One at a time in a folder: a lock of the kernel's, on an open file, which ends with its holder however that ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import InputError


@contextmanager
def alone(path: Path, refusal: str) -> Iterator[None]:
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
