"""What is recorded of a run in its workspace: `run.json`."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import psutil
from pydantic import BaseModel, ConfigDict

from stance.machine.files import read_json, write_json

RECORD = Path(".dvc/tmp/run.json")
LOG = Path(".dvc/tmp/run.log")
"""What the stages of a run have printed."""
FAILED = "failed"
State = Literal["starting", "running", "completed", "failed", "cancelled", "crashed"]


class Run(BaseModel):
    """What is known of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    commit: str
    """HEAD of the project when the run was made."""
    snapshot: str
    """The commit that it works on: HEAD, or HEAD with the uncommitted edits."""
    created: datetime
    profile: str | None = None
    overrides: dict[str, Any] = {}
    state: State = "running"
    pid: int | None = None
    """Of the process that works on it, with `started` to tell it from a later one of the same number."""
    started: float | None = None
    flow_run_id: str | None = None
    """Prefect's."""
    stages: dict[str, str] = {}
    """What became of each stage, and why it ran."""
    seconds: dict[str, float] = {}
    """What each stage took that ran here."""
    memory: dict[str, int] = {}
    """MiB that the largest process of each stage took that ran here, at its peak."""
    gpu_memory: dict[str, int] = {}
    """MiB in use on the fullest GPU at the peak of each stage that ran here; 0 without one."""
    problem: str | None = None

    @property
    def finished(self) -> list[str]:
        """The stages whose outputs are the run's own."""
        return [stage for stage, said in self.stages.items() if not said.startswith(FAILED)]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return what the workspace in `folder` is."""
        return cls.model_validate(read_json(folder / RECORD))

    @property
    def open(self) -> bool:
        """Has the run not ended, as far as was recorded?"""
        return self.state in ("starting", "running")

    def alive(self) -> bool:
        """Is the process that was recorded still there, and no later one of the same number?"""
        try:
            return bool(psutil.Process(self.pid).create_time() == self.started) if self.pid else False
        except psutil.NoSuchProcess:
            return False

    def write(self, folder: Path) -> None:
        """Replace the record in `folder` as a whole, so that nobody reads half of it."""
        part = (folder / RECORD).with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        write_json(part, self.model_dump(mode="json"))
        part.replace(folder / RECORD)

    def updated(self, folder: Path, **changes: Any) -> Self:
        """Return the run with some values changed, after writing it."""
        changed = self.model_copy(update=changes)
        changed.write(folder)
        return changed


def this_process() -> dict[str, Any]:
    """Return what is recorded of the process that works on a run: this one."""
    return {"pid": os.getpid(), "started": psutil.Process().create_time()}


METRICS = Path("data/evaluation/metrics.json")
