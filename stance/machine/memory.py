"""Memory of this machine and of its GPUs, in bytes."""

import subprocess
from typing import NamedTuple

import psutil

MEMORY = ("nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits")


class Room(NamedTuple):
    """Bytes of the device that engines run on."""

    free: int
    total: int


def memory(gpu: bool) -> Room:
    """Return the memory of the first GPU, or of this machine."""
    if gpu:
        printed = subprocess.run(MEMORY, capture_output=True, text=True, check=True).stdout
        free, total = (int(number) * 2**20 for number in printed.splitlines()[0].split(","))
        return Room(free, total)
    host = psutil.virtual_memory()
    return Room(host.available, host.total)
