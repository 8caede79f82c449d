"""End a training whose loss or gradient is no number: its weights are lost, and no later step brings them back."""

from collections.abc import Iterable, Mapping
from math import isfinite

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stance.errors import InputError

LOSS = ("loss", "grad_norm")
"""The metrics of a step that are numbers as long as the weights are."""


class Divergence(TrainerCallback):
    """Ends the training at the first step whose loss or gradient is no number."""

    def __init__(self, learning_rate: str) -> None:
        """Take the name of the parameter that holds the learning rate."""
        self.learning_rate = learning_rate

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Look at the step.

        Raises:
            InputError: Its loss or the norm of its gradient is no number.
        """
        if fault := no_number(state.log_history[-1], LOSS):
            raise InputError(
                f"{fault} at step {state.global_step} of {state.max_steps}, so that the training has failed; lower "
                f"{self.learning_rate}, which is {args.learning_rate:g}"
            )


def no_number(row: Mapping[str, float | None], names: Iterable[str]) -> str | None:
    """Return which of these metrics of a step is no number; None if all are numbers, or are not there."""
    for name in names:
        value = row.get(name, 0.0)
        if value is None or not isfinite(value):  # TRL logs None where all values were no numbers
            return f"{name} is {value}"
    return None
