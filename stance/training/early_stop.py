"""Stop a training early, at its last checkpoint that still answers unrelated prompts as the base model does.

In: the base model's own answers to unrelated prompts that are not trained on. At every checkpoint the policy and the
base, which is the policy with its adapter off, read these answers. The drift is the Kullback-Leibler divergence of the
two over the next tokens, in nats per token. Above the bound `train.max_drift` the training ends, and the policy gets
the weights of the checkpoint before. Without a bound nothing is read.

The callback draws no random number, so that a training within its bound gives the same adapter as one without a bound.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerFast, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stance.data.answers import read_answers
from stance.data.chat import conversation, encode_answer
from stance.data.preferences import read_retained_pairs
from stance.data.training import EarlyStop, Measured, Watchdog
from stance.errors import InputError
from stance.training.kept_weights import Weights, keep, restore
from stance.training.parallel import all_rows
from stance.training.progress import rewrite, steps
from stance.training.retaining import TOKENS, Text, divergence

logger = logging.getLogger(__name__)

PROMPTS = 32
"""Largest number of unrelated prompts that are read. Each takes two readings at every checkpoint."""
DRIFT = "drift"
"""The key of a measurement in the trainer's history, which its checkpoints keep."""


def read_untrained(answered: Path, pairs: Path, tokenizer: PreTrainedTokenizerFast, system_prompt: str) -> list[Text]:
    """Return the base model's own answers to unrelated prompts that are not trained on, at most `PROMPTS` of them.

    Args:
        answered: `data/answers/base`; its `retained.jsonl` holds the answers to all unrelated prompts.
        pairs: `data/pairs`; its `retained.jsonl` holds those that are trained on.
        tokenizer: That of the base model.
        system_prompt: Stands before every prompt.

    Raises:
        InputError: There is no answer, or all of them are trained on.
    """
    answers = [row for row in read_answers(answered / "retained.jsonl") if row.response]
    trained = {row.id for row in read_retained_pairs(pairs / "retained.jsonl")}
    rows = [row for row in answers if row.id not in trained][:PROMPTS]
    if not rows:
        raise InputError(
            f"train.max_drift needs unrelated prompts that are not trained on, but all {len(answers)} answers in "
            f"{answered / 'retained.jsonl'} are; lower pairs.retained, add prompts to the retained.jsonl in "
            "dataset.side_effects, or set train.max_drift to null"
        )
    texts = [encode_answer(tokenizer, conversation(system_prompt, row.prompt), row.response) for row in rows]
    return [(prompt, answer[:TOKENS]) for prompt, answer in texts]


class EarlyStopCallback(TrainerCallback):
    """Measures the drift at every checkpoint and at the end, and ends the training above the bound."""

    def __init__(self, texts: Sequence[Text], bound: float, batch_size: int, out: Path) -> None:
        """Read the prompts and answers `texts`, `batch_size` at once; `out` holds `log.csv` and `watchdog.json`.

        The bound is in nats per token.
        """
        self.texts, self.bound, self.batch_size, self.out = texts, bound, batch_size, out
        self.kept_step = 0
        self.kept_weights: Weights = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Keep the weights with which the training begins: those of a checkpoint where it resumes."""
        self._keep(state.global_step, cast(PeftModel, kwargs["model"]))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Measure the drift where a checkpoint is due, and stop or keep the weights.

        Raises:
            InputError: The first checkpoint is above the bound, so that there is none to go back to.
        """
        step, policy = state.global_step, cast(PeftModel, kwargs["model"])
        if step % int(args.save_steps) and step < state.max_steps:
            return
        nats = fmean(all_rows([mean_drift(policy, self.texts, self.batch_size)]))  # all processes decide alike
        logger.info("step %d: drift on unrelated prompts %.3f nats per token, at most %g", step, nats, self.bound)
        state.log_history.append({DRIFT: nats, "step": step})
        if nats <= self.bound:
            self._keep(step, policy)
            return
        if not self.kept_step:
            raise InputError(
                f"the drift on unrelated prompts is {nats:.3f} nats per token at step {step}, the first checkpoint, "
                f"and train.max_drift is {self.bound:g}, so that no trained checkpoint is left; lower train.save_steps "
                "or train.learning_rate, or raise train.max_drift"
            )
        logger.warning("stopped at step %d of %d; back to step %d", step, state.max_steps, self.kept_step)
        restore(policy, self.kept_weights)
        control.should_training_stop, control.should_save = True, False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Add the measurements to `watchdog.json`, and cut the log after the step whose weights are kept."""
        measured = [Measured(step=int(row["step"]), drift=row[DRIFT]) for row in state.log_history if DRIFT in row]
        stopped = bool(measured) and not measured[-1].drift <= self.bound
        record = EarlyStop(bound=self.bound, measured=measured, kept=self.kept_step if stopped else None)
        path = self.out / "watchdog.json"
        Watchdog.read(path).model_copy(update={"early_stop": record}).write(path)
        if stopped:
            state.log_history = [row for row in state.log_history if row["step"] <= self.kept_step]
            rewrite(self.out / "log.csv", steps(state))

    def _keep(self, step: int, policy: PeftModel) -> None:
        self.kept_step = step
        self.kept_weights = keep(policy, "cpu")


def last_drift(state: TrainerState) -> dict[str, float]:
    """Return the last measured drift as a figure of the training; nothing where none was measured."""
    drifts = [row[DRIFT] for row in state.log_history if DRIFT in row]
    return {DRIFT: drifts[-1]} if drifts else {}


def mean_drift(policy: PeftModel, texts: Sequence[Text], batch_size: int) -> float:
    """Return the mean of KL(base | policy) over all tokens of the answers, in nats; NaN where the policy is broken."""
    nats, tokens = 0.0, 0
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        count = sum(len(answer) for _, answer in batch)
        with torch.no_grad(), without_dropout(policy):
            nats += float(divergence(policy, batch)) * count
        tokens += count
    return nats / tokens


@contextmanager
def without_dropout(policy: torch.nn.Module) -> Iterator[None]:
    """Let the layers of a model drop nothing, so that a reading needs no random number."""
    layers = [layer for layer in policy.modules() if isinstance(layer, torch.nn.Dropout) and layer.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
