"""Ends a training that ruins the model, with what was made so far kept, and says what to change.

The loudest complaint about DPO is a run whose metrics look fine and whose model is not. Two of the metrics tell while
it happens: the log-probability of the chosen answers collapses, or the reward margin explodes (arXiv 2410.08847).
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stance.machine.files import write_json

logger = logging.getLogger(__name__)


STEPS = 3
"""Logged steps that are averaged: a single batch may be an odd one."""


class Watchdog(TrainerCallback):
    """Stops the training at the first step at which `alarm` says why, and writes that down."""

    def __init__(self, path: Path, max_chosen_fall: float, max_margin: float) -> None:
        """Write what was found to `path`; the bounds are those of `alarm`."""
        self.path, self.bounds = path, (max_chosen_fall, max_margin)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Say that nothing is wrong so far."""
        write_json(self.path, {"found": None, "step": None, "steps": state.max_steps})

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Look at the steps so far."""
        logged = [row for row in state.log_history if "loss" in row]
        found = alarm(logged, *self.bounds)
        if not found or control.should_training_stop:
            return
        step = state.global_step
        logger.warning("stopped at step %d of %d: %s", step, state.max_steps, found)
        write_json(self.path, {"found": found, "step": step, "steps": state.max_steps})
        control.should_training_stop = True
        control.should_save = False  # a run that is resumed meets the same step again


def alarm(steps: Sequence[Mapping[str, Any]], max_chosen_fall: float, max_margin: float) -> str | None:
    """Return what is wrong with a training by its logged steps, or None.

    Args:
        steps: In TRL's terms, from the first.
        max_chosen_fall: Nats by which `logps/chosen` may lie below the first step's, on average over `STEPS`.
        max_margin: Reward margin that the average over `STEPS` may have.
    """
    if not steps:
        return None
    for name in ("loss", "logps/chosen", "rewards/margins"):
        if not math.isfinite(steps[-1][name]):
            return f"{name} is {steps[-1][name]}"
    if len(steps) <= STEPS:
        return None
    fall = steps[0]["logps/chosen"] - fmean(row["logps/chosen"] for row in steps[-STEPS:])
    if fall > max_chosen_fall:
        return f"logps/chosen has fallen by {fall:.1f} nats, more than {max_chosen_fall:g}"
    margin = fmean(row["rewards/margins"] for row in steps[-STEPS:])
    return f"the reward margin is {margin:.1f}, above {max_margin:g}" if margin > max_margin else None
