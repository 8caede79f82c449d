"""Runs a command and says how long it took and how much memory it and its children took at most."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

EVERY = 0.2  # seconds between two looks


class Cost(NamedTuple):
    """What a command took; bytes."""

    seconds: float
    host: int
    """Proportional set size of the process tree: shared pages are counted once."""
    gpu: int
    """Of the whole GPU, less what was in use before."""


def cost(command: Sequence[str], folder: Path, log: Path | None = None) -> Cost:
    """Run a command in a folder to its end; every line of its log begins with the seconds since its start.

    Raises:
        subprocess.CalledProcessError: It failed; its output is shown.
    """
    paths = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "STANCE_PYTHON": sys.executable, "DVC_NO_ANALYTICS": "1"}
    before, peak, ended = gpu_in_use(), [0, 0], threading.Event()
    began = time.monotonic()
    with subprocess.Popen(
        list(command), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        watcher = threading.Thread(target=watch, args=(process.pid, peak, ended))
        watcher.start()
        assert process.stdout is not None
        output = "".join(f"{time.monotonic() - began:7.1f}  {line}" for line in process.stdout)
        process.wait()
        seconds = time.monotonic() - began
        ended.set()
        watcher.join()
    if log:
        log.write_text(output, encoding="utf-8")
    if process.returncode:
        sys.stderr.write(output)
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return Cost(seconds, peak[0], max(0, peak[1] - before))


def watch(pid: int, peak: list[int], ended: threading.Event) -> None:
    """Keep the largest host and GPU memory in `peak` until the end."""
    while not ended.wait(EVERY):
        peak[:] = [max(peak[0], host_in_use(pid)), max(peak[1], gpu_in_use())]


def host_in_use(pid: int) -> int:
    """Return the bytes of a process and its children."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.Error:  # it has just ended
        pass
    return total


def gpu_in_use() -> int:
    """Return the bytes of GPU memory that are not free; 0 where there is no GPU."""
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free
