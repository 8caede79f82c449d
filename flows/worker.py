"""A worker of a work pool: runs that were asked for at a server elsewhere start in this checkout: `make worker`.

`PREFECT_API_URL` names the server, `deploy/prefect.yaml` what it may ask for (docs/deploy.md).
"""

import os
import signal
import sys

from flows.guard import guarded, release
from flows.serve import mark_crashed
from flows.stages import environment
from flows.ui import QUICK, leave
from tasks.errors import InputError, run


def worker(pool: str) -> int:
    """Sweep up, then take runs from a pool until the end; returns how the worker ended.

    Raises:
        InputError: No server is named.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise InputError(
            "PREFECT_API_URL is not set; name the server, as in "
            "`PREFECT_API_URL=http://127.0.0.1:4200/api make worker` (docs/deploy.md)"
        )
    for name in mark_crashed():
        print(f"{name} had crashed")
    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", pool]
    process = guarded(command, env={**environment(), **QUICK})
    try:
        return process.wait()
    finally:
        release(process)


def main() -> None:
    """Run until Ctrl+C or SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    try:
        sys.exit(worker(os.environ.get("POOL", "stance")))
    except KeyboardInterrupt:
        print("ended")


if __name__ == "__main__":
    run(main)
