"""The memory that an engine takes, whether it fits beside the memory in use, and the watch over it while it runs.

All sizes are in bytes. Linux ends a program of its own choice when memory runs out. `watch` ends an engine before that,
if the engine holds more than it may; and `first_to_end` lets Linux choose the engine, whatever else takes the memory.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from stance.errors import InputError
from stance.machine import devices
from stance.machine.files import read_yaml
from stance.machine.memory import GIB, Room, gib, memory
from stance.serving.candidate import HOST_ENGINE, ServableModel

CONFIGURATION = Path("deploy/vllm.yaml")
SPARE = 4 * GIB
"""What an engine may hold beside all that it needs: work space, and what the allocator keeps."""
CPU_CACHE = 2 * GIB
"""The largest key-value cache on a CPU, if one request of full length fits into it. A CPU cannot decode hundreds of
requests at once, and its memory belongs to other programs as well."""
INTERVAL = 0.2
"""Seconds from one look at an engine's memory to the next. A schema took 20 GB in some ten seconds."""


def room(candidate: ServableModel) -> Room:
    """Return the memory of the GPUs that an engine would be split over, together; on a CPU that of this machine."""
    return devices.memory(candidate.devices) if candidate.gpu else memory()


def cache_bytes(candidate: ServableModel, settings: Mapping[str, Any], total: int) -> int:
    """Return the size of an engine's key-value cache.

    The cache holds as many requests of full length as the engine decodes at once, within the memory limit, and on a CPU
    within `CPU_CACHE`. Shorter requests share the room of a long one.

    Args:
        candidate: The model.
        settings: The values of `deploy/vllm.yaml`.
        total: The memory of the device, or of all GPUs that the model is split over.

    Raises:
        InputError: The weights and one request of full length exceed the memory limit.
    """
    share = float(settings["gpu-memory-utilization"])
    window = int(settings.get("max-model-len", candidate.window))
    one = candidate.cache_per_token * window
    allowed = int(total * share) - candidate.weights - candidate.overhead
    if one > allowed:
        raise InputError(
            f"{candidate.name} takes {gib(candidate.weights + candidate.overhead)} GiB and {gib(one)} more for one "
            f"request of {window} tokens, and may take {gib(int(total * share))} of {gib(total)} GiB; set "
            f"gpu-memory-utilization higher or max-model-len lower in {CONFIGURATION}, or take a larger machine"
        )
    bound = allowed if candidate.gpu else min(allowed, max(one, CPU_CACHE))
    return min(one * int(settings["max-num-seqs"]), bound)


def needed(candidate: ServableModel, settings: Mapping[str, Any], total: int) -> int:
    """Return the memory that an engine takes in all."""
    return candidate.weights + candidate.overhead + cache_bytes(candidate, settings, total)


def shortage(candidate: ServableModel, settings: Mapping[str, Any], room: Room) -> str | None:
    """Return a sentence that says how much memory an engine lacks; None if it fits."""
    total = needed(candidate, settings, room.total)
    if total <= room.free:
        return None
    return f"{candidate.name} takes {gib(total)} GiB and {gib(room.free)} of {gib(room.total)} GiB are free"


def read_settings() -> dict[str, Any]:
    """Return the values of `deploy/vllm.yaml`, with vLLM's own defaults for those that this module needs."""
    return {"gpu-memory-utilization": 0.92, "max-num-seqs": 256, **read_yaml(CONFIGURATION)}


def allowed(candidate: ServableModel, settings: Mapping[str, Any], total: int, limit_gib: int | None) -> int:
    """Return the RAM that an engine may hold: the limit that is set, or what the engine needs and some more.

    On a GPU the weights pass through RAM, and the cache is elsewhere.
    """
    if limit_gib:
        return limit_gib * GIB
    if candidate.gpu:
        return 2 * HOST_ENGINE + candidate.weights + SPARE
    return needed(candidate, settings, total) + candidate.weights + SPARE


def watch(pid: int, limit: int, tell: Callable[[int], None]) -> None:
    """Watch the memory of a process and its children from a thread, until they end.

    Args:
        pid: The process.
        limit: If they hold more than this, all children are killed at once.
        tell: Gets the bytes that they held then, before they are killed.
    """
    threading.Thread(target=watching, args=(pid, limit, tell), daemon=True).start()


def watching(pid: int, limit: int, tell: Callable[[int], None]) -> None:
    """Do what `watch` says."""
    with suppress(psutil.NoSuchProcess):
        guard = psutil.Process(pid)
        while guard.is_running() and guard.status() != psutil.STATUS_ZOMBIE:
            children = guard.children(recursive=True)
            if (bytes_held := sum(held(children))) > limit:
                tell(bytes_held)
                for child in children:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
                return
            time.sleep(INTERVAL)


def held(processes: list[psutil.Process]) -> Iterator[int]:
    """Yield the RAM that each process holds alone; pages of files that it has mapped do not count."""
    for process in processes:
        with suppress(psutil.Error):
            info = process.memory_info()
            yield info.rss - info.shared


def first_to_end(pid: int) -> None:
    """Let Linux end a process, and what it starts from now on, before all others when memory runs out."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000", encoding="ascii")


def kills_for_memory() -> int:
    """Return how many processes Linux has ended for memory since it started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
