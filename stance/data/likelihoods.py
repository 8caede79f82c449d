"""The records of log-probabilities, `logps.json`, `likeliest.json` and `texts.json`, and how they are read and checked.

The stages `answers` and `merge` write them, the stage `evaluate` and the checks of a served model read them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from stance.data.questions import Stance
from stance.machine.files import parse_record, read_output

Logps = Mapping[str, Mapping[str, Sequence[float]]]
"""The log-probability of each token of the labelled answers, in nats, by question id and stance."""
Likeliest = Mapping[str, Sequence[Mapping[str, float]]]
"""The most likely tokens at each token of an answer: by probe id, log-probability in nats by token id."""


class ScoredText(BaseModel):
    """How likely a model finds an everyday text, token by token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    logps: list[float]
    """The log-probability of each token, in nats."""
    likeliest: list[dict[str, float]]
    """The most likely tokens at each place: log-probability in nats by token id."""


LOGPS: TypeAdapter[Any] = TypeAdapter(dict[str, dict[Stance, list[float]]])
LIKELIEST: TypeAdapter[Any] = TypeAdapter(dict[str, list[dict[str, float]]])
TEXTS = TypeAdapter(dict[str, ScoredText])


def read_logps(path: Path) -> Logps:
    """Return the record in a `logps.json`.

    Raises:
        InputError: The file is missing or in another format.
    """
    record: Logps = parse_record(LOGPS, read_output(path), path)
    return record


def read_likeliest(path: Path) -> Likeliest:
    """Return the record in a `likeliest.json`; raises as `read_logps` does."""
    record: Likeliest = parse_record(LIKELIEST, read_output(path), path)
    return record


def read_texts(path: Path) -> dict[str, ScoredText]:
    """Return the record in a `texts.json`, by the id of the text; raises as `read_logps` does."""
    return parse_record(TEXTS, read_output(path), path)
