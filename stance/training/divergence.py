"""End a training whose loss or gradient is no number: its weights are lost, and no later step brings them back."""

from math import isfinite

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stance.errors import InputError


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
        row = state.log_history[-1]
        for name in ("loss", "grad_norm"):
            value = row.get(name, 0.0)
            if value is None or not isfinite(value):
                raise InputError(
                    f"{name} is {value} at step {state.global_step} of {state.max_steps}, so that the training has "
                    f"failed; lower {self.learning_rate}, which is {args.learning_rate:g}"
                )
