"""The log of a training: `log.csv` with one row per optimiser step, and log lines with the seconds that are left."""

import csv
import logging
import time
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

SHOWN = {"rewards/margins": "margin", "mean_token_accuracy": "accuracy"}
"""The figures of a step that a log line shows beside the loss, under TRL's names, and the words for them."""


class Progress(TrainerCallback):
    """Logs each optimiser step and keeps `log.csv` up to date.

    The rows come from the trainer's history. A checkpoint contains this history, so a resumed run has all rows.
    """

    def __init__(self, path: Path) -> None:
        """Keep the log of the training in the CSV file `path`."""
        self.path = path
        self.began = 0.0
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Start the clock, and begin the log with the steps in the checkpoint."""
        self.began, self.first_step = time.monotonic(), state.global_step
        rewrite(self.path, steps(state))
        if state.global_step:
            logger.info("resuming at step %d of %d", state.global_step, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Write no checkpoint after the last step, because the adapter is saved next."""
        control.should_save = control.should_save and state.global_step < state.max_steps

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Add the step to the log and report progress. The trainer's closing summary is no step."""
        if "loss" not in state.log_history[-1]:
            return
        row = _step(state.log_history[-1])
        _append_csv(self.path, [row])
        if steps_done := state.global_step - self.first_step:
            left = (time.monotonic() - self.began) / steps_done * (state.max_steps - state.global_step)
            figures = "  ".join(f"{word} {row[name]:.3f}" for name, word in SHOWN.items() if name in row)
            logger.info(
                "step %d/%d  loss %.4f  %s  %.0f s left", state.global_step, state.max_steps, row["loss"], figures, left
            )


def steps(state: TrainerState) -> list[dict[str, float]]:
    """Return the metrics of every optimiser step, without the trainer's closing summary."""
    return [_step(row) for row in state.log_history if "loss" in row]


def _step(row: dict[str, float]) -> dict[str, float]:
    # TRL counts num_tokens only from the last resumption on.
    return {key: row[key] for key in sorted(row) if key != "num_tokens"}


def rewrite(path: Path, rows: list[dict[str, float]]) -> None:
    """Write a log of these rows alone."""
    path.unlink(missing_ok=True)
    _append_csv(path, rows)


def _append_csv(path: Path, rows: list[dict[str, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        for row in rows:
            writer = csv.DictWriter(file, ["step", *sorted(row.keys() - {"step"})], lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
