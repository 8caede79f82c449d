"""The curves of a training: a CSV file with one row per optimiser step, and one log line per step."""

import csv
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)


class Curves(TrainerCallback):
    """Writes chosen metrics of every optimiser step."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        """Write to the CSV file `path`; `columns` holds the name of a column by TRL's name of the metric."""
        self.path, self.columns, self.began = path, columns, 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Begin the file."""
        self.began = time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(",".join(["step", *self.columns.values()]) + "\n", encoding="utf-8")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Add a row. The trainer's closing summary is no step."""
        row = state.log_history[-1]
        if "loss" not in row:
            return
        values = {column: _number(row[name]) for name, column in self.columns.items()}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow([state.global_step, *values.values()])
        left = (time.monotonic() - self.began) / state.global_step * (state.max_steps - state.global_step)
        figures = "  ".join(f"{column} {value:.4g}" for column, value in values.items())
        logger.info("step %d/%d  %s  %.0f s left", state.global_step, state.max_steps, figures, left)


def _number(value: float | None) -> float:
    return math.nan if value is None else value  # TRL logs None where all values were no numbers
