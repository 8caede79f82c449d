"""The records that training and merge leave behind: `watchdog.json` and `parity.json`.

Stage `train` writes a `Watchdog`, stage `merge` a `Parity`. The gates, the report and the model card read them. This
module is the only place that knows both formats. It imports no sentences, so a changed text trains nothing again.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from stance.data.noise import Floor
from stance.machine.files import parse_record, read_output, write_json

FORMAT = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


class Measured(BaseModel):
    """The drift of the policy from the base model on unrelated prompts, at one step."""

    model_config = FORMAT

    step: int
    drift: float
    """Mean Kullback-Leibler divergence, in nats per token."""


class EarlyStop(BaseModel):
    """The bound `train.max_drift`, what was measured, and whether the training was stopped because of it."""

    model_config = FORMAT

    bound: float
    """Largest drift, in nats per token."""
    measured: list[Measured]
    """The drift at every checkpoint; if the training was stopped, the last one is above the bound."""
    kept: int | None
    """The step whose adapter is kept; null if no drift was above the bound."""


class Watchdog(BaseModel):
    """Whether the watchdog stopped the training, and why; and whether `train.max_drift` did."""

    model_config = FORMAT

    reason: str | None = Field(validation_alias="found", serialization_alias="found")
    """Why the training was stopped; null if it came to its end."""
    step: int | None
    """The step after which it was stopped; null if it came to its end."""
    steps: int
    """The number of steps that were planned."""
    early_stop: EarlyStop | None = None
    """Null where `train.max_drift` is null; the file then lacks this key."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record in a `watchdog.json`.

        Raises:
            InputError: The file is missing or in another format.
        """
        return cls.parse(read_output(path), path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Self:
        """Return the record in the bytes of a `watchdog.json`; `path` names the file in an error."""
        return parse_record(TypeAdapter(cls), content, path)

    def write(self, path: Path) -> None:
        """Write the record to a `watchdog.json`."""
        write_json(path, self.model_dump(by_alias=True, exclude=None if self.early_stop else {"early_stop"}))


class Drift(BaseModel):
    """The difference between two copies of a model, in the log-probabilities that they give the same texts."""

    model_config = FORMAT

    mean: float
    """Mean absolute difference of the log-probabilities, nats per token."""
    worst: float
    """Largest absolute difference, nats."""
    top_flips: int
    """Number of tokens where the most likely token differs although the first copy's lead exceeds the bound."""
    tokens: int
    """Number of tokens compared."""


class Parity(BaseModel):
    """The drift of the merged model from the trained one; the first five keys of the file are about the written model.

    `mean`, `worst`, `top_flips` and `tokens` are a `Drift`.
    """

    model_config = FORMAT

    base: str
    """The weights that the adapter was added to: `original` or `dequantized`."""
    mean: float
    worst: float
    top_flips: int
    tokens: int
    floor: Floor | None = None
    """The noise of bf16 on the merged weights; null in a record of an earlier version, which did not measure it."""
    candidates: dict[str, Drift]
    """The drift of every kind of weights that was measured."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record in a `parity.json`; raises as `Watchdog.read` does."""
        return cls.parse(read_output(path), path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Self:
        """Return the record in the bytes of a `parity.json`; `path` names the file in an error."""
        return parse_record(TypeAdapter(cls), content, path)

    def write(self, path: Path) -> None:
        """Write the record to a `parity.json`."""
        write_json(path, self.model_dump())
