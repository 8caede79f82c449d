"""The sections of the report about the stages of the long road: fine-tuning, reward model, reinforcement learning.

In: the folders of these stages. Out: the values of `long_road.html.j2`. A stage that a run left out has no section.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from stance.data.metrics import Share
from stance.data.plain_text import RECORD, Pretraining
from stance.data.reinforcement import Reinforcement, Stretch
from stance.data.rewards import RewardQuality, VoterAgreement
from stance.data.training import FineTuning, Piece
from stance.language.translation import _
from stance.pages.render import percent, short, signed

Record = TypeVar("Record")


class Mask(NamedTuple):
    """A row of the fine-tuning, and which of its tokens are trained on."""

    pieces: Sequence[Piece]
    trained: int
    """Number of tokens that are trained on."""
    tokens: int
    end: str | None
    """The last piece, which makes the model stop; None if it is not trained on."""


class Figure(NamedTuple):
    """A figure with its explanation."""

    name: str
    value: str
    meaning: str


def shown(tuned: Path, reward: Path, reinforced: Path) -> dict[str, Any]:
    """Return the values of the sections; None for a stage that was left out.

    Args:
        tuned: `data/sft`.
        reward: `data/reward`.
        reinforced: `data/rl`.
    """
    tuning = _record(FineTuning.read, tuned / "sft.json")
    pretraining = _record(Pretraining.read, tuned / RECORD)
    quality = _record(RewardQuality.read, reward / "quality.json")
    reinforcement = _record(Reinforcement.read, reinforced / "rl.json")
    return {
        "tuning": tuning,
        "pretraining": pretraining,
        "masks": [mask(pieces) for pieces in tuning.examples] if tuning else [],
        "quality": quality,
        "reward_figures": reward_figures(quality) if quality else [],
        "reinforcement": reinforcement,
        "stretches": stretches(reinforcement) if reinforcement else [],
    }


def _record(read: Callable[[Path], Record], path: Path) -> Record | None:
    return read(path) if path.exists() else None


def mask(pieces: Sequence[Piece]) -> Mask:
    """Return a row with the number of its trained tokens and its end."""
    last = pieces[-1]
    return Mask(
        pieces,
        sum(piece.tokens for piece in pieces if piece.trained),
        sum(piece.tokens for piece in pieces),
        last.text if last.trained else None,
    )


def reward_figures(quality: RewardQuality) -> list[Figure]:
    """Return the figures of a reward model; one that could not be measured is a dash."""
    rows = [
        (
            _("Accuracy on held-out questions"),
            with_interval(quality.accuracy),
            _("The share of pairs whose preferred answer has the higher reward."),
        ),
        (
            _("Accuracy on trained questions"),
            with_interval(quality.training_accuracy),
            _("Far above the held-out accuracy: the reward model knows its answers by heart."),
        ),
        (
            _("Reward and length"),
            correlation(quality.length_correlation),
            _("Rank correlation of reward and number of tokens, over held-out answers."),
        ),
        (
            _("Longer answer preferred"),
            with_interval(quality.longer_chosen),
            _("The share of held-out pairs whose longer answer is the preferred one."),
        ),
        (
            _("Longer answer rewarded"),
            with_interval(quality.longer_rewarded),
            _("The share of the same pairs whose longer answer has the higher reward. Far above: a length bias."),
        ),
        (
            _("First answer preferred"),
            with_interval(quality.first_chosen),
            _("The share of pairs in votes whose preferred answer was shown first. Far from 50%: a position bias."),
        ),
        (
            _("Reward and stance"),
            correlation(quality.stance_correlation),
            _("Rank correlation of reward and P(support) − P(oppose) by the stance judge, over held-out answers."),
        ),
        (
            _("Reward after reloading"),
            short(quality.reload_difference),
            _("The largest difference between the rewards of the trained model and of its files."),
        ),
    ]
    return [Figure(*row) for row in rows] + [voter(*each) for each in quality.voters.items()]


def voter(name: str, agreement: VoterAgreement) -> Figure:
    """Return how far a model that votes agrees with people."""
    text = _("kappa {kappa} ({low} to {high}), {questions} questions")
    figures = {key: f"{getattr(agreement, key):.2f}" for key in ("kappa", "low", "high")}
    return Figure(
        _("Agreement of {voter} with people").format(voter=name),
        text.format(**figures, questions=agreement.questions),
        _("Cohen's kappa on questions that both have ranked. The votes of this model count where no person has voted."),
    )


def with_interval(share: Share | None) -> str:
    """Return a share with its 95 % interval and its count as text; a dash for none."""
    if share is None:
        return "–"
    text = _("{share} ({low} to {high}), {count} of {total}")
    values = {name: percent(getattr(share, name)) for name in ("share", "low", "high")}
    return text.format(**values, count=share.count, total=share.total)


def correlation(value: float | None) -> str:
    """Return a correlation as text; a dash for none."""
    return "–" if value is None else signed(value)


def stretches(record: Reinforcement) -> list[tuple[str, str, str, str]]:
    """Return each curve's name with its average over the first, the kept and the last steps."""
    rows: list[tuple[str, Callable[[Stretch], str]]] = [
        (_("Reward"), lambda stretch: short(stretch.reward)),
        (_("Independent ruler"), lambda stretch: signed(stretch.ruler)),
        (_("Share that holds the stance"), lambda stretch: percent(stretch.stance_share)),
        (_("KL divergence from the reference"), lambda stretch: short(stretch.kl)),
        (_("Entropy"), lambda stretch: short(stretch.entropy)),
        (_("Tokens of an answer"), lambda stretch: short(stretch.length)),
    ]
    return [(name, value(record.first), value(record.kept), value(record.last)) for name, value in rows]
