"""What this project's own processes have in common: their environment, and how they end."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def environment() -> dict[str, str]:
    """Return the environment of a stage: this interpreter is its `python`, and its log is lines, not progress bars."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "STANCE_PYTHON": sys.executable, "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}


def until_ended(work: Callable[[], None]) -> None:
    """Run until Ctrl+C or SIGTERM, and let what was started be ended in both cases."""
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background jobs ignore the latter unless told otherwise
        signal.signal(number, leave)
    try:
        work()
    except KeyboardInterrupt:
        print("ended")


def leave(*_: object) -> NoReturn:
    """End as by Ctrl+C."""
    raise KeyboardInterrupt
