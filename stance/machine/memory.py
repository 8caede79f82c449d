"""Memory of this machine and of its GPU, in bytes.

There are two ways to ask for the free memory of a GPU, for two kinds of process. `memory` asks `nvidia-smi`. The
endpoint uses it, because a process that asks torch opens a CUDA context, and that takes half a gibibyte of the GPU for
as long as the process lives. `own_memory` asks torch. A stage uses it: a stage computes on the GPU in any case, and
torch respects CUDA_VISIBLE_DEVICES. Functions that need torch import it themselves.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

GIB = 2**30
MIB = 2**20
CGROUPS = Path("/sys/fs/cgroup")
LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""The files of a control group with its limit and its use, in version 2 and in version 1."""
QUERY = ("nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits")


class Room(NamedTuple):
    """Bytes of a device's memory."""

    free: int
    total: int


def memory(gpu: bool) -> Room:
    """Return the memory of the first GPU, or of this machine, without a CUDA context."""
    if not gpu:
        host = psutil.virtual_memory()
        return within_limits(Room(host.available, host.total))
    printed = subprocess.run(QUERY, capture_output=True, encoding="utf-8", errors="replace", check=True).stdout
    free, total = (int(number) * MIB for number in printed.splitlines()[0].split(","))
    return Room(free, total)


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


def own_memory(device: str) -> Room:
    """Return the memory of the device that this process computes on, `cpu` or `cuda`; opens a CUDA context."""
    if device != "cuda":
        return memory(gpu=False)
    import torch

    return Room(*torch.cuda.mem_get_info())


def gpu_size() -> int:
    """Return the bytes of the GPU that torch would use, 0 if there is none; opens no CUDA context."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else 0


def gib(size: float) -> str:
    """Return a number of bytes in gibibytes, with one decimal."""
    return f"{size / GIB:.1f}"
