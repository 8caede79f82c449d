"""The record `samples.jsonl`: several answers of a model to each training question, drawn at a temperature.

The stage `sample` writes one row per question. People or a model rank the answers of a row (`stance.data.votes`); an
answer is named by the hash of its text, so that a vote stays true when other answers are drawn.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stance.config.section import Sha256
from stance.errors import InputError
from stance.machine.files import first_problem, read_jsonl, write_jsonl

SAMPLES = Path("data/samples/samples.jsonl")
FORMAT = ConfigDict(frozen=True, extra="forbid")
AGAIN = "run `dvc repro sample`"


def answer_hash(text: str) -> str:
    """Return the SHA-256 of an answer's text in UTF-8, by which a vote names it."""
    return hashlib.sha256(text.encode()).hexdigest()


class SampledAnswer(BaseModel):
    """One answer that was drawn."""

    model_config = FORMAT

    sha256: Sha256
    """`answer_hash` of the text."""
    text: str
    finish_reason: str
    """`stop`, or `length` where the answer was cut off."""
    logps: list[float]
    """Log-probability of each token of the answer, in nats, at temperature 1; the end of the answer included."""

    @classmethod
    def of(cls, text: str, finish_reason: str, logps: list[float]) -> Self:
        """Return the record of an answer, with the hash of its text."""
        return cls(sha256=answer_hash(text), text=text, finish_reason=finish_reason, logps=logps)

    @model_validator(mode="after")
    def _is_its_hash(self) -> Self:
        if answer_hash(self.text) != self.sha256:
            raise ValueError("sha256 is not the hash of the text")
        return self


class Samples(BaseModel):
    """The answers to one question. No two have the same text."""

    model_config = FORMAT

    id: int
    """The id of the question."""
    prompt: str
    answers: list[SampledAnswer] = Field(min_length=1)
    dropped: int = Field(ge=0)
    """Number of answers that were drawn and dropped as near-duplicates."""

    def texts(self) -> dict[str, str]:
        """Return the texts of the answers by their hash."""
        return {answer.sha256: answer.text for answer in self.answers}


def read_samples(path: Path) -> list[Samples]:
    """Return the rows of a `samples.jsonl`.

    Raises:
        InputError: The file is missing, a row is in another format, or two rows have one id.
    """
    try:
        rows = read_jsonl(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; {AGAIN}") from None
    samples = [_row(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
    if len({row.id for row in samples}) < len(samples):
        raise InputError(f"{path} has two rows with one id; {AGAIN}")
    return samples


def write_samples(path: Path, samples: Iterable[Samples]) -> None:
    """Write the rows of a `samples.jsonl`."""
    write_jsonl(path, [row.model_dump() for row in samples])


def _row(row: Any, where: str) -> Samples:
    try:
        return Samples.model_validate(row)
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error, 'the row')}; {AGAIN}") from None
