"""What a killed endpoint leaves behind, and how the next start removes it.

An endpoint that is killed by `kill -9` cannot remove the folders for sockets in the temporary folder, nor what its
engines hold in `/dev/shm`. So it writes their names to `.serve/remains.json` while it runs: nothing else is ever
removed. `clean` first waits until the engines have ended, which their guards see to, and kills what stays.
"""

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from stance.client.local import SERVE
from stance.machine.processes import is_running
from stance.machine.supervisor import GRACE
from stance.serving.engine import Engine, kill_all

REMAINS = SERVE / "remains.json"
SHARED = Path("/dev/shm")
PATIENCE = 3 * GRACE
"""Seconds that a guard takes at most to end its engine."""


class Remains(BaseModel):
    """What an endpoint would leave behind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: list[tuple[int, float]] = []
    """The engines' guards and all that they have started, and when each started, in seconds since 1970."""
    folders: list[Path] = []
    """Temporary folders."""
    shared: list[Path] = []
    """Files in `/dev/shm`."""


def write(engines: Iterable[Engine]) -> None:
    """Write down what the engines that run would leave behind."""
    engines = list(engines)
    processes, shared = [], set[Path]()
    for engine in engines:
        engine.started = engine.processes() or engine.started
        with suppress(psutil.NoSuchProcess):
            processes += [(process.pid, process.create_time()) for process in engine.started]
        shared.update(path for process in engine.started for path in mapped(process.pid))
    folders = [Path(engine.scratch.name) for engine in engines if engine.scratch]
    part = REMAINS.with_suffix(".part")
    part.write_text(
        Remains(processes=processes, folders=folders, shared=sorted(shared)).model_dump_json(), encoding="utf-8"
    )
    part.replace(REMAINS)


def mapped(pid: int) -> Iterator[Path]:
    """Yield the files in `/dev/shm` that a process has mapped."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            path = Path(line.split(maxsplit=5)[-1])
            if path.parent == SHARED and path.exists():
                yield path


def clean() -> list[Path]:
    """Remove what a killed endpoint of this folder has left behind, and return what was removed."""
    try:
        left = Remains.model_validate_json(REMAINS.read_bytes())
    except (FileNotFoundError, ValueError):
        return []
    until = time.monotonic() + PATIENCE
    while any(is_running(*process) for process in left.processes) and time.monotonic() < until:
        time.sleep(0.1)
    kill_all([psutil.Process(pid) for pid, started in left.processes if is_running(pid, started)])
    in_use = {path for process in psutil.process_iter() for path in mapped(process.pid)}
    gone = [path for path in [*left.folders, *left.shared] if path.exists() and path not in in_use]
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    clear()
    return gone


def clear() -> None:
    """Forget what would be left behind: it was removed."""
    REMAINS.unlink(missing_ok=True)
