"""Run a command that must not outlive whoever started it: `supervisor.py COMMAND...`, its stdin a pipe.

When the pipe closes - the starter has ended, by `kill -9` too - or a signal comes, the command and everything that it
has started is ended, first by SIGTERM and after `GRACE` seconds by SIGKILL. Linux gives orphans of the command to the
guard (PR_SET_CHILD_SUBREAPER), so that a child with a session of its own does not escape. Of a run's stage it prints
last how much memory that took, in RAM and on the GPU.
"""

import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import psutil

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
GRACE = 5  # seconds
MARK = "STANCE_RUN"
"""In the environment of all that belongs to a run, children of children too: its workspace."""
DETACHED = "STANCE_DETACHED"
"""In the environment of a process that is to outlive the guard it was started under, with all that it starts."""
PEAK = re.compile(r"^peak memory (\d+) MiB(?:, GPU (\d+) MiB)?$")
"""What a guard prints last; without the GPU's part, what the client of a forked stage prints when that has ended."""
GPU_MEMORY = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--loop-ms=500")
"""Prints the MiB in use on each GPU, a line each, twice a second; by whomever, and GPU stages take turns."""
VISIBLE, LEASED = "CUDA_VISIBLE_DEVICES", "STANCE_LEASED"
"""The GPUs of a stage, by the numbers of the driver's tool if they are leased."""


def guarded(command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
    """Start a command under a guard that ends it with this process; `release` ends it sooner.

    Args:
        command: Its program and arguments.
        options: For `subprocess.Popen`, without `stdin`.
    """
    guard = [sys.executable, str(Path(__file__).resolve()), *command]
    return subprocess.Popen(
        guard, stdin=subprocess.PIPE, encoding="utf-8", errors="replace", start_new_session=True, **options
    )


def unwatch(guard: "subprocess.Popen[str]") -> None:
    """Tell a guard that its command no longer uses the GPUs, so that it counts no memory that others take there."""
    guard.send_signal(signal.SIGUSR1)


def release(guard: "subprocess.Popen[str]") -> None:
    """End a guarded command, if it has not ended, and wait until nothing of it is left."""
    assert guard.stdin is not None
    guard.stdin.close()
    guard.wait(timeout=3 * GRACE)
    if guard.stdout:
        guard.stdout.close()


def run_to_end(command: Sequence[str], **options: Any) -> int:
    """Run a command under a guard, and return its exit code; it ends with this process. Arguments as for `guarded`."""
    guard = guarded(command, **options)
    try:
        return guard.wait()
    finally:
        release(guard)


def run(command: Sequence[str]) -> int:
    """Run a command to its end or to that of stdin, and return its exit code."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)
    ended, signals = threading.Event(), list[int]()

    def stop(number: int, _: object) -> None:
        signals.append(number)
        end_descendants()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    samples, unwatched = list[int](), threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: unwatched.set())
    if MARK in os.environ:
        threading.Thread(target=watch_gpu, args=(samples, unwatched), daemon=True).start()
    process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=end_with_pipe, args=(ended, signals), daemon=True).start()
    code = process.wait()
    ended.set()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Python takes away its handlers at its end, and the default kills
    end_descendants()
    if MARK in os.environ:
        print(f"peak memory {peak()} MiB, GPU {max(samples, default=0)} MiB", flush=True)
    if signals:  # whoever ended the command may have waited for it first, and then its code is lost
        return 128 + signals[0]
    return code if code >= 0 else 128 - code


def peak() -> int:
    """Return the MiB that the largest process of the command, or of what it has started, held in RAM at its peak.

    The kernel counts, so that no moment is missed; processes are not added up, since they share pages, and what
    DVC takes itself is the least that a stage can have. Memory of a GPU is not in it.
    """
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


def watch_gpu(samples: list[int], unwatched: threading.Event) -> None:
    """Note the MiB in use on the GPUs until `unwatched` is set; nothing where the driver's tool is missing."""
    if not shutil.which(GPU_MEMORY[0]):
        return
    leased = [f"--id={os.environ[VISIBLE]}"] if LEASED in os.environ else []
    process = subprocess.Popen(
        [*GPU_MEMORY, *leased], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8", errors="replace"
    )
    assert process.stdout is not None
    lines = takewhile(lambda _: not unwatched.is_set(), process.stdout)
    samples.extend(int(line) for line in lines if line.strip().isdigit())
    process.terminate()


def end_with_pipe(ended: threading.Event, signals: list[int]) -> None:
    """End everything once nobody holds the other end of stdin, and note the signal that it was ended by."""
    os.read(sys.stdin.fileno(), 1)  # unbuffered: Python's own reader may not be held when the process ends
    if not ended.is_set():
        signals.append(signal.SIGTERM)
        end_descendants()


def end_descendants() -> None:
    """End all that this process has started, directly or not, and that is not detached."""
    end(lambda: list(descendants(psutil.Process())))


def descendants(process: psutil.Process) -> Iterator[psutil.Process]:
    """Yield what a process has started, directly or not; nothing that is detached, or that such a one has started."""
    try:
        children = process.children()
    except psutil.NoSuchProcess:
        return
    for child in children:
        if not variable(child, DETACHED):
            yield child
            yield from descendants(child)


def end_marked(run: str) -> None:
    """End what is left of a run whose guard was killed as well."""
    end(lambda: [process for process in psutil.process_iter() if mark(process) == run])


def mark(process: psutil.Process) -> str | None:
    """Return the run that a process belongs to, if it belongs to one and may be looked at."""
    return variable(process, MARK)


def variable(process: psutil.Process, name: str) -> str | None:
    """Return a variable of a process's environment, if it has it and may be looked at."""
    try:
        return cast(str | None, process.environ().get(name))
    except psutil.Error:
        return None


def end(find: Callable[[], list[psutil.Process]]) -> None:
    """End processes, first by SIGTERM and then by SIGKILL, those that they start meanwhile too."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        left = find()
        for process in left:
            try:
                process.send_signal(ending)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=GRACE)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
