"""Turns on the GPU: stages that need it run one at a time on a machine, whatever runs and serving processes there are.

The lock is the kernel's, on an open file (flock), and is handed to the guard of the stage: it is free once that has
ended everything, however it and the flow end.
"""

import fcntl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tasks.params import read_yaml

LOADER = "tasks/model.py"
LOCK = Path(tempfile.gettempdir()) / "stance-pipeline.gpu"


def wanted(stage: str, folder: Path) -> bool:
    """Does the stage work on a GPU? Those do that depend on the module with which models are loaded.

    The second judge does only where it is the base model.
    """
    params = read_yaml(folder / "params.yaml")
    loads = LOADER in read_yaml(folder / "dvc.yaml")["stages"][stage].get("deps", [])
    idle = stage == "judge" and params["evaluate"]["judge"]["source"] != "base_model"
    return loads and not idle and bool(params["model"]["device"] == "cuda")


@contextmanager
def turn(name: str, say: Callable[[str], None], lock: Path = LOCK) -> Iterator[IO[str]]:
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
