"""The record `rl.json` of a reinforcement learning: what was rewarded, how the curves went, which adapter was kept.

The stage `rl` writes it; the gates and the report read it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter

from stance.machine.files import parse_record, read_output, write_json

FORMAT = ConfigDict(frozen=True, extra="forbid")


class Drawn(NamedTuple):
    """An answer that an engine has drawn."""

    ids: list[int]
    """Token ids, the end of the answer included."""
    logps: Sequence[float]
    """Log-probability of each of them by the engine, in nats, at the temperature of the draw."""


class Stretch(BaseModel):
    """Averages over some steps in a row."""

    model_config = FORMAT

    reward: float
    """Mean reward, without the KL penalty."""
    ruler: float
    """Mean of the independent ruler, from -1 to 1."""
    stance_share: float
    """Share of the answers that hold the wanted stance, by the ruler."""
    kl: float
    """Mean KL divergence from the reference, nats per token."""
    entropy: float
    """Mean entropy of the policy, nats per token."""
    length: float
    """Mean number of tokens of an answer."""


class Reinforcement(BaseModel):
    """How a policy was trained by reinforcement."""

    model_config = FORMAT

    algorithm: Literal["rloo", "grpo"]
    rewards: dict[str, float]
    """The parts of the reward with their weights."""
    ruler: str
    """The judge that measured the answers and was no part of the reward."""
    steps: int
    """The number of steps that were planned."""
    step: int | None
    """The step after which the watchdog stopped; null if the training came to its end."""
    reason: str | None
    """Why it was stopped; null if it came to its end."""
    kept_step: int
    """The number of steps that the kept adapter was trained for."""
    first_kl: float
    """KL divergence of the first step, nats per token: 0, because the policy begins as the reference."""
    engine_drift: float | None = None
    """Largest difference between engine and policy in a step, nats per token; null if no engine drew the answers. It is
    the mean of log p(engine) - log p(policy) over the tokens that the engine drew, which estimates the KL divergence of
    the policy from the engine."""
    first: Stretch
    """The first steps, as many as the watchdog averages over."""
    last: Stretch
    """The last steps, whether their adapter was kept or not."""
    kept: Stretch
    """The steps that ended with the kept adapter."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record in an `rl.json`.

        Raises:
            InputError: The file is missing or in another format.
        """
        return parse_record(TypeAdapter(cls), read_output(path), path)

    def write(self, path: Path) -> None:
        """Write the record to an `rl.json`."""
        write_json(path, self.model_dump())
