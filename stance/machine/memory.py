"""Memory of this machine and of its GPU, in bytes.

There are two ways to ask for the free memory of a GPU, for two kinds of process. `memory` asks `nvidia-smi`. The
endpoint uses it, because a process that asks torch opens a CUDA context, and that takes half a gibibyte of the GPU for
as long as the process lives. `own_memory` asks torch. A stage uses it: a stage computes on the GPU in any case, and
torch respects CUDA_VISIBLE_DEVICES. Functions that need torch import it themselves.
"""

import subprocess
from typing import NamedTuple

import psutil

GIB = 2**30
MIB = 2**20
QUERY = ("nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits")


class Room(NamedTuple):
    """Bytes of a device's memory."""

    free: int
    total: int


def memory(gpu: bool) -> Room:
    """Return the memory of the first GPU, or of this machine, without a CUDA context."""
    if not gpu:
        host = psutil.virtual_memory()
        return Room(host.available, host.total)
    printed = subprocess.run(QUERY, capture_output=True, encoding="utf-8", errors="replace", check=True).stdout
    free, total = (int(number) * MIB for number in printed.splitlines()[0].split(","))
    return Room(free, total)


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
