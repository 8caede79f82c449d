"""The processes of this project: the environment that they start in, and how they end."""

import getpass
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import psutil


def environment() -> dict[str, str]:
    """Return the environment of a stage: its `python` is this interpreter, and its log is UTF-8 in any locale.

    The log has lines and no progress bars.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    name_the_user()
    ours = {"STANCE_PYTHON": sys.executable, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "TQDM_DISABLE": "1"}
    return {**os.environ, "PATH": path, **ours}


def name_the_user() -> None:
    """Set USER for a user id without a name, as containers have. DVC asks for one, and puts it into a hash only."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user-{os.getuid()}"


def is_running(pid: int, started: float) -> bool:
    """Does the process run that started at that time, and not only a later one of the same number?

    A killed process whose parent has not asked for its exit code yet (a zombie) does not run.
    """
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until_ended(work: Callable[[], None]) -> None:
    """Run until Ctrl+C or SIGTERM. Both raise KeyboardInterrupt, so that `finally` blocks end what was started."""
    for number in (signal.SIGTERM, signal.SIGINT):  # background jobs of a shell ignore SIGINT otherwise
        signal.signal(number, leave)
    try:
        work()
    except KeyboardInterrupt:
        print("ended")


def leave(*_: object) -> NoReturn:
    """Raise KeyboardInterrupt, as Ctrl+C does."""
    raise KeyboardInterrupt
