"""Stop a training that ruins the model, keep the adapter trained so far, and write down the reason.

A DPO run can look fine by its loss and still ruin the model. Two other metrics show this during training: the
log-probability of the chosen answers collapses, or the reward margin explodes (arXiv 2410.08847).

TRL's `logps/chosen` is a mean over one batch, and answers differ in length. So it moves with the batch, even where the
policy does not move. `rewards/chosen` compares every answer with itself: it is beta times the answer's log-probability
under the policy minus that under the reference. Here it is divided by beta.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stance.config.training import Train
from stance.data.training import Watchdog
from stance.training.progress import steps

logger = logging.getLogger(__name__)


STEPS = 3
"""Number of logged steps to average, because a single batch can be unusual."""


class WatchdogCallback(TrainerCallback):
    """Stops the training at the first step for which `alarm` returns a reason, and writes a `Watchdog` record."""

    def __init__(self, path: Path, options: Train) -> None:
        """Write the record to `path`; `options` holds the bounds of `alarm`."""
        self.path, self.options = path, options

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Write that nothing is wrong so far."""
        Watchdog(reason=None, step=None, steps=state.max_steps).write(self.path)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Check the steps so far."""
        reason = alarm(steps(state), self.options.beta, self.options.max_chosen_fall, self.options.max_margin)
        if not reason or control.should_training_stop:
            return
        step = state.global_step
        logger.warning("stopped at step %d of %d: %s", step, state.max_steps, reason)
        Watchdog(reason=reason, step=step, steps=state.max_steps).write(self.path)
        control.should_training_stop = True
        control.should_save = False  # a resumed run would reach the same step again


def alarm(rows: Sequence[Mapping[str, Any]], beta: float, max_chosen_fall: float, max_margin: float) -> str | None:
    """Return the reason to stop a training, or None.

    Args:
        rows: TRL's metrics of every step from the first one.
        beta: What TRL multiplies the rewards by.
        max_chosen_fall: Nats by which the chosen answers, averaged over `STEPS`, may be less likely than in the
            reference.
        max_margin: Largest reward margin, averaged over `STEPS`.
    """
    if not rows:
        return None
    for name in ("loss", "rewards/chosen", "rewards/margins"):
        if not math.isfinite(rows[-1][name]):
            return f"{name} is {rows[-1][name]}"
    if len(rows) <= STEPS:
        return None
    fall = -fmean(row["rewards/chosen"] for row in rows[-STEPS:]) / beta
    if fall > max_chosen_fall:
        return f"logps/chosen has fallen by {fall:.1f} nats, more than {max_chosen_fall:g}"
    margin = fmean(row["rewards/margins"] for row in rows[-STEPS:])
    return f"the reward margin is {margin:.1f}, above {max_margin:g}" if margin > max_margin else None
