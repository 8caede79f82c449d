"""Memory of this machine and of its GPUs, in bytes.

There are two ways to ask for the free memory of a GPU, for two kinds of process. `stance.machine.devices.memory` asks
`nvidia-smi`. The endpoint uses it, because a process that asks torch opens a CUDA context, and that takes half a
gibibyte of the GPU for as long as the process lives. `own_memory` asks torch. A stage uses it: a stage computes on the
GPU in any case. Functions that need torch import it themselves.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

GIB = 2**30
MIB = 2**20
CGROUPS = Path("/sys/fs/cgroup")
LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""The files of a control group with its limit and its use, in version 2 and in version 1."""


class Room(NamedTuple):
    """Bytes of a device's memory."""

    free: int
    total: int


def memory() -> Room:
    """Return the memory of this machine."""
    host = psutil.virtual_memory()
    return within_limits(Room(host.available, host.total))


def within_limits(host: Room, mounts: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> Room:
    """Return the memory of this machine, or of the container or job that this process is confined to.

    Args:
        host: The memory of the machine.
        mounts: Where the control groups of version 2 are, and those of version 1 in the folder `memory`.
        own: The groups of this process.
    """
    free, total = host
    for group in _groups(mounts, own):
        for limit_file, used_file in LIMITS:
            limit, used = _number(group / limit_file), _number(group / used_file)
            if limit is not None and limit < host.total:
                # The cache of files counts as used, and is given up when memory is needed.
                unused = limit - max(0, (used or 0) - _cached(group / "memory.stat"))
                free, total = min(free, max(0, unused)), min(total, limit)
    return Room(free, total)


def _groups(mounts: Path, own: Path) -> Iterator[Path]:
    """Yield the control groups of this process that limit memory, with all groups that hold them."""
    lines = own.read_text(encoding="utf-8").splitlines() if own.exists() else []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = mounts / "memory" if controllers else mounts
        group = top / name.lstrip("/")
        yield top  # in a container the name may be that of the host, which is not visible
        while group != top and top in group.parents:
            yield group
            group = group.parent


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _cached(path: Path) -> int:
    """Return the bytes of files that a group keeps in memory and does not use."""
    try:
        rows = dict(line.split() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return 0
    return int(rows.get("total_inactive_file") or rows.get("inactive_file") or 0)


def own_memory(device: str, count: int = 1) -> Room:
    """Return the memory of what this process computes on: the host, or GPUs; opens a CUDA context.

    Args:
        device: `cpu` or `cuda`.
        count: Number of GPUs. A model that is split over GPUs takes as much of each, so the fullest counts for all.
    """
    if device != "cuda":
        return memory()
    import torch

    free, total = zip(*(torch.cuda.mem_get_info(number) for number in range(count)), strict=True)
    return Room(count * min(free), count * min(total))


def gpu_size() -> int:
    """Return the bytes of the GPU that torch would use, 0 if there is none; opens no CUDA context."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else 0


def gib(size: float) -> str:
    """Return a number of bytes in gibibytes, with one decimal."""
    return f"{size / GIB:.1f}"
