"""The record of a trial: what the answers of a run's adapter show before the adapter is merged.

`make sweep MERGE=best` tries the adapter of every run of a grid in one engine, and merges only the best one. The record
lies in the workspace of the run. This module is the only place that knows its format.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, TypeAdapter

from stance.data.metrics import Adherence, ServedDrift, Shares, SideEffects
from stance.data.noise import Floor
from stance.machine.files import parse_record, write_json

FOLDER = Path("data/trial")
"""In the workspace of a run: the record, and in the files of `data/answers` what the adapter answered."""
TRIAL, PROBLEM = FOLDER / "trial.json", FOLDER / "problem.txt"
"""The record; or why the adapter could not be tried, a sentence."""
BROKEN = "remove the folder of the file, and sweep again"


class Trial(BaseModel):
    """What the answers of an adapter show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: str
    """DVC's hash of the adapter."""
    base: str
    """The weights that the adapter was added to: `original` or `dequantized`."""
    aligned: Shares
    """The share of its answers to the test prompts per stance."""
    adherence: Adherence
    side_effects: SideEffects | None
    """What else it changed; null where the data set has no such prompts."""
    merged: ServedDrift | None = None
    """How far the merged model is from it, in nats per token of the labelled answers; null before the merge."""
    bounds: Floor | None = None
    """How far a correct merge may be from it; null before the merge."""

    @property
    def within(self) -> bool:
        """Is the merged model, if there is one, as near as it must be?"""
        if self.merged is None or self.bounds is None:
            return True
        return self.merged.mean <= self.bounds.mean and self.merged.worst <= self.bounds.worst

    @property
    def merit(self) -> tuple[float, float]:
        """What trials are ordered by: adherence, then the share of the right everyday answers that are kept."""
        ability = self.side_effects.ability if self.side_effects else None
        return self.adherence.share or 0.0, ability.kept.share if ability and ability.kept else 0.0

    @classmethod
    def read(cls, workspace: Path) -> Self:
        """Return the record in the workspace of a run.

        Raises:
            InputError: The file is in another format.
        """
        return parse_record(TypeAdapter(cls), (workspace / TRIAL).read_bytes(), workspace / TRIAL, BROKEN)

    def write(self, workspace: Path) -> None:
        """Replace the record in the workspace of a run as a whole, so that no reader sees half of it."""
        part = (workspace / TRIAL).with_suffix(".part")
        write_json(part, self.model_dump())
        part.replace(workspace / TRIAL)
