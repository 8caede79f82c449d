"""`run.json`, the record of a run in its workspace: how it was started, how far it got, and what it took."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import psutil
from pydantic import BaseModel, ConfigDict, TypeAdapter

from stance.machine.files import parse_record, write_json
from stance.machine.processes import is_running

RECORD = Path(".dvc/tmp/run.json")
LOG = Path(".dvc/tmp/run.log")
"""The output of the stages of a run."""
FAILED = "failed"
BROKEN = "remove the run's folder, and start the run again"
State = Literal["starting", "running", "trained", "completed", "failed", "cancelled", "crashed"]
"""`trained`: the run has its adapter, and a sweep left it at that (`MERGE=best`)."""


class Run(BaseModel):
    """The record of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    commit: str
    """HEAD of the project when the run was made."""
    snapshot: str
    """The commit that the run works on: HEAD, or HEAD with the uncommitted edits."""
    created: datetime
    profile: str | None = None
    overrides: dict[str, Any] = {}
    state: State = "running"
    pid: int | None = None
    """The process that works on the run. `started` tells it from a later process of the same number."""
    started: float | None = None
    flow_run_id: str | None = None
    """The id of Prefect's flow run."""
    tries: int = 0
    """How often the flow run had been begun, on any machine, when it was last begun here; 0 before the first stage."""
    stages: dict[str, str] = {}
    """The outcome of each stage that has ended, and why it ran."""
    seconds: dict[str, float] = {}
    """How long each stage took that ran here."""
    memory: dict[str, int] = {}
    """The peak memory of the largest process of each stage that ran here, in MiB."""
    gpu_memory: dict[str, int] = {}
    """The peak memory in use on the fullest GPU during each stage that ran here, in MiB; 0 without a GPU."""
    problem: str | None = None

    @property
    def finished(self) -> list[str]:
        """The stages whose outputs are the run's own."""
        return [stage for stage, outcome in self.stages.items() if not outcome.startswith(FAILED)]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the record in the workspace `folder`.

        Raises:
            InputError: The record is not that of a run.
        """
        path = folder / RECORD
        return parse_record(TypeAdapter(cls), path.read_bytes(), path, BROKEN)

    @property
    def open(self) -> bool:
        """Is the run going on, according to the record?"""
        return self.state in ("starting", "running")

    def alive(self) -> bool:
        """Is the recorded process still there, and not a later one of the same number?"""
        return is_running(self.pid, self.started) if self.pid and self.started else False

    def write(self, folder: Path) -> None:
        """Replace the record in `folder` as a whole, so that no reader sees half of it."""
        part = (folder / RECORD).with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        write_json(part, self.model_dump(mode="json"))
        part.replace(folder / RECORD)

    def updated(self, folder: Path, **changes: Any) -> Self:
        """Return the run with some values changed, and write it."""
        changed = self.model_copy(update=changes)
        changed.write(folder)
        return changed


def this_process() -> dict[str, Any]:
    """Return the values of a record that name this process as the one that works on the run."""
    return {"pid": os.getpid(), "started": psutil.Process().create_time()}
