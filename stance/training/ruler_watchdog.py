"""Stop a reinforcement learning that games its reward: the reward rises and an independent ruler falls.

A policy that is trained against a reward sooner or later finds answers that the reward overrates (Gao et al., arXiv
2210.10760). The reward itself cannot show it. So another judge, which is no part of the reward, measures the same
answers. Where the two part, the training stops, and the adapter at the ruler's best average is kept.
"""

import logging
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stance.training.divergence import LOSS, no_number
from stance.training.kept_weights import Weights, keep
from stance.training.progress import steps

logger = logging.getLogger(__name__)

REWARD, RULER = "reward", "ruler"
"""Names of the two metrics in the trainer's log."""


class Policy(NamedTuple):
    """The policy that drew the answers of a step."""

    steps: int
    """Its optimiser steps."""
    weights: Weights


class Best(NamedTuple):
    """The stretch of steps with the best average of the ruler."""

    reward: float
    ruler: float
    policy: Policy
    """The one that drew the last answers of the stretch."""


class RulerWatchdog(TrainerCallback):
    """Stops the training where reward and ruler part."""

    def __init__(self, window: int, max_fall: float) -> None:
        """Average over `window` steps; allow the ruler to fall by `max_fall` below its best average."""
        self.window, self.max_fall = window, max_fall
        self.best: Best | None = None
        self.reason: str | None = None
        self.stopped_at: int | None = None
        self._drawing = self._sound = Policy(0, {})

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the weights of the policy that draws the answers of this step."""
        self._drawing = Policy(state.global_step, keep(kwargs["model"]))
        self._sound = self._sound if self._sound.weights else self._drawing

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Compare the last steps with the best ones."""
        rows = steps(state)
        if self.reason or not rows or "loss" not in state.log_history[-1]:
            return
        broken = no_number(rows[-1], (*LOSS, REWARD, RULER))
        self._sound = self._sound if broken else self._drawing
        self.reason = broken or self._parted(rows)
        if self.reason:
            self.stopped_at = state.global_step
            logger.warning("stopped at step %d of %d: %s", state.global_step, state.max_steps, self.reason)
            control.should_training_stop = True

    @property
    def kept(self) -> Policy:
        """The policy that a training goes back to: the best one, or the last one whose figures are numbers."""
        return self.best.policy if self.best else self._sound

    def _parted(self, rows: Sequence[Mapping[str, float]]) -> str | None:
        if len(rows) < self.window:
            return None
        reward, ruler = (fmean(row[name] for row in rows[-self.window :]) for name in (REWARD, RULER))
        if self.best is None or ruler > self.best.ruler:
            self.best = Best(reward, ruler, self._drawing)
            return None
        if ruler < self.best.ruler - self.max_fall and reward > self.best.reward:
            return (
                f"the reward has risen from {self.best.reward:.3g} to {reward:.3g} and the independent ruler has "
                f"fallen from {self.best.ruler:.3f} to {ruler:.3f}, by more than {self.max_fall:g}"
            )
        return None
