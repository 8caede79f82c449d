"""The records of the last release, in `data/release`.

`release.json` says which run it was, and has the figures that the next one is compared with. `push.json` says what the
Hub has of it. `stance.release` writes them; a release's gates and the provenance of a model read them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter

from stance.data.metrics import Adherence
from stance.data.questions import Stance
from stance.machine.files import File, parse_record, write_json

RECORD, PUSHED = "release.json", "push.json"
EARLIER = (
    "another version of this project wrote it: move the folder data/release away, and the next release is compared "
    "with no earlier one"
)


class Release(BaseModel):
    """The record of a release."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    """The name, like `r-0f3a9c2b7d11`."""
    run: str
    """The name of the run's workspace, or of the project's folder."""
    at: str
    """The time of the release, in ISO 8601 with its offset from UTC."""
    test_prompts: list[dict[str, Any]]
    """The rows of the run's `test_prompt.json`."""
    stance: Stance | None
    """The chosen stance; null where the pairs prefer both."""
    adherence: Adherence

    @classmethod
    def last(cls, folder: Path) -> Self | None:
        """Return the record in a folder like `data/release`, or None if there is none.

        Raises:
            InputError: The record is in another format.
        """
        path = folder / RECORD
        return parse_record(TypeAdapter(cls), path.read_bytes(), path, EARLIER) if path.exists() else None

    def write(self, folder: Path) -> None:
        """Write the record to a folder like `data/release`."""
        write_json(folder / RECORD, self.model_dump())

    def comparable(self, other: Self) -> bool:
        """Do both releases hold one chosen stance, and were they asked the same prompts?"""
        return self.stance is not None and (self.test_prompts, self.stance) == (other.test_prompts, other.stance)


class Pushed(BaseModel):
    """A repository on the Hub with a release in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo_id: str
    url: str
    commit: str
    tag: str
    """The name of the release."""
    files: dict[str, File]


PUSHES = TypeAdapter(dict[str, Pushed])
"""By what the repository holds: `adapter` or `merged`."""


def read_pushed(folder: Path) -> dict[str, Pushed]:
    """Return what was pushed last, as a folder like `data/release` records it; empty if nothing was.

    Raises:
        InputError: The record is in another format.
    """
    path = folder / PUSHED
    return parse_record(PUSHES, path.read_bytes(), path, EARLIER) if path.exists() else {}


def write_pushed(pushed: Mapping[str, Pushed], folder: Path) -> None:
    """Write what was pushed to a folder like `data/release`."""
    write_json(folder / PUSHED, PUSHES.dump_python(dict(pushed)))
