"""The DVC pipeline as a flow sees it: which stages there are, in which order, and how to run one.

Everything is read from `dvc.yaml` through DVC; no name, path or edge stands here. A stage is started in a session of
its own and that session is ended with the task, so that a cancelled run leaves no training process on the GPU.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dvc.repo import Repo
from networkx import lexicographical_topological_sort

Outcome = Literal["ran", "restored", "unchanged"]

OUTCOMES: tuple[tuple[str, Outcome], ...] = (
    (r"^Running stage '", "ran"),
    (r"is cached - skipping run", "restored"),
    (r"didn't change, skipping", "unchanged"),
)


def names() -> list[str]:
    """Return the stages of `dvc.yaml`, each after those it depends on."""
    with Repo() as repo:
        graph = repo.index.graph.reverse(copy=True)
        return [stage.name for stage in lexicographical_topological_sort(graph, key=lambda stage: stage.name)]


def reproduce(stage: str, log: Callable[[str], None]) -> Outcome:
    """Bring one stage up to date, its dependencies being so already, and say what that took.

    Args:
        stage: Its name in `dvc.yaml`.
        log: Gets every line that DVC and the stage print, as it is printed.

    Raises:
        RuntimeError: The stage failed; its own error is among the lines.
    """
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
    lines = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log(line.rstrip())
                lines.append(line)
            process.wait()
        finally:
            end(process)
    if process.returncode:
        raise RuntimeError(f"stage {stage} failed; `dvc repro {stage}` exited with {process.returncode}, see its log")
    return outcome("".join(lines))


def environment() -> dict[str, str]:
    """Return the environment of a stage: this interpreter is its `python`, and its log is lines, not progress bars."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}


def outcome(log: str) -> Outcome:
    """Return what DVC did, by the line in which it says so."""
    return next(meaning for pattern, meaning in OUTCOMES if re.search(pattern, log, re.MULTILINE))


def end(process: subprocess.Popen[str]) -> None:
    """End whatever is left of a process and its children."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, ending)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
