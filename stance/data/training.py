"""The records that training and merge leave behind: `watchdog.json` and `parity.json`.

Stage `train` writes a `Watchdog`, stage `merge` a `Parity`. The gates, the report and the model card read them. This
module is the only place that knows both formats. It imports no sentences, so a changed text trains nothing again.
"""

from pathlib import Path
from typing import Literal, Self

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


class Piece(BaseModel):
    """A piece of a row of a fine-tuning: the tokens of one or more whole characters."""

    model_config = FORMAT

    text: str
    tokens: int
    trained: bool
    """Whether the tokens are trained on, or masked."""


class FineTuning(BaseModel):
    """What the stage `sft` did."""

    model_config = FORMAT

    method: Literal["lora", "full"] = "lora"
    """Whether an adapter was trained, or all weights."""
    rows: int
    tokens: int
    trained_tokens: int
    """The tokens of the answers and their ends; the others are masked."""
    first_loss: float
    """Mean negative log-likelihood of a trained token in the first step, nats."""
    last_loss: float
    examples: list[list[Piece]]
    """The first rows, in pieces."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record in an `sft.json`; raises as `Watchdog.read` does."""
        return parse_record(TypeAdapter(cls), read_output(path), path)

    def write(self, path: Path) -> None:
        """Write the record to an `sft.json`."""
        write_json(path, self.model_dump())


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


class Joint(BaseModel):
    """Whether a training went on where the stages before it had ended; a figure without such a stage is null."""

    model_config = FORMAT

    reference: Drift | None = None
    """The drift of the reference from the fine-tuned model, on the answers of the pairs."""
    first_reward: float | None = None
    """DPO: the largest absolute reward in the first step, which is 0 where the policy begins as the reference."""
    first_kl: float | None = None
    """Reinforcement learning: the KL divergence of the first step, nats per token, which is 0 likewise."""
    reward: float | None = None
    """Largest difference between the rewards in the reinforcement learning and those that the stage `reward` saved."""
    engine: float | None = None
    """Largest drift of the policy from the engine that drew its answers, nats per token."""

    @property
    def figures(self) -> Self | None:
        """The record, or None if it has no figure."""
        return None if self == type(self)() else self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record in a `joint.json`; raises as `Watchdog.read` does."""
        return cls.parse(read_output(path), path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Self:
        """Return the record in the bytes of a `joint.json`; `path` names the file in an error."""
        return parse_record(TypeAdapter(cls), content, path)

    def write(self, path: Path) -> None:
        """Write the record to a `joint.json`."""
        write_json(path, self.model_dump())


NO_JOINT = Joint()
"""The record of a training that starts from the base."""


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
