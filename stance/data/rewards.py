"""The record of a reward model, `quality.json`: how often it is right on held-out answers, and its biases.

The stage `reward` writes it; the gates and the report read it. A figure that cannot be computed is null. `scores.jsonl`
holds the first texts with their rewards, so that the stage `rl` can tell whether it rewards as the stage `reward` did.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter

from stance.data.metrics import Share
from stance.machine.files import parse_record, read_jsonl, read_output, write_json, write_jsonl


class VoterAgreement(BaseModel):
    """How far a model that votes agrees with people, on the questions that both have ranked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int
    pairs: int
    """Number of pairs of answers that were compared."""
    share: float
    """Share of the pairs that both judge alike."""
    kappa: float
    """Cohen's kappa."""
    low: float
    high: float
    """The 95 % interval of kappa."""


class RewardQuality(BaseModel):
    """Figures of a reward model. All but those of the training are about held-out questions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["preferences", "votes", "scores"]
    voters: dict[str, VoterAgreement] = {}
    """The models whose votes count where no person has voted."""
    trained_on: int
    """Number of pairs or scores that were trained on."""
    questions: int
    """Number of questions that were trained on."""
    held_out_questions: int
    first_loss: float
    """Loss of the first step. The head starts at zero, so it is log 2 for pairs without a margin."""
    last_loss: float
    reload_difference: float
    """Largest difference between the rewards of the trained model and of the same model read from its files."""
    accuracy: Share | None
    """Share of held-out pairs whose preferred answer has the higher reward. A tie counts as wrong."""
    training_accuracy: Share | None
    """The same on the pairs that were trained on."""
    length_correlation: float | None
    """Spearman's correlation of reward and number of tokens, over held-out answers."""
    longer_chosen: Share | None
    """Share of held-out pairs of different length whose longer answer is the preferred one."""
    longer_rewarded: Share | None
    """Share of the same pairs whose longer answer has the higher reward. Far above `longer_chosen`: a length bias."""
    first_chosen: Share | None
    """Share of all pairs in votes whose preferred answer was shown first. Far from one half: a position bias of the
    voters. A reward model reads one answer at a time and has none of its own."""
    stance_correlation: float | None
    """Spearman's correlation of reward and the stance judge's score, P(support) - P(oppose), over held-out answers."""
    score_correlation: float | None
    """Spearman's correlation of reward and given score, over held-out answers."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record in a `quality.json`.

        Raises:
            InputError: The file is missing or in another format.
        """
        return parse_record(TypeAdapter(cls), read_output(path), path)

    def write(self, path: Path) -> None:
        """Write the record to a `quality.json`."""
        write_json(path, self.model_dump())


KEPT = 64
"""Number of texts in `scores.jsonl`: a multiple of the batch, so that both stages pad them alike."""


class RewardedText(NamedTuple):
    """A text and its reward."""

    ids: Sequence[int]
    """Token ids of the conversation with the answer."""
    reward: float


def write_rewards(path: Path, rows: Sequence[RewardedText]) -> None:
    """Write the first `KEPT` rows to a `scores.jsonl`."""
    write_jsonl(path, [row._asdict() for row in rows[:KEPT]])


def read_rewards(path: Path) -> list[RewardedText]:
    """Return the rows of a `scores.jsonl`."""
    return [RewardedText(**row) for row in read_jsonl(path)]
