"""Checkpoints of a training: which folder they are in, and which of them are complete."""

import hashlib
from pathlib import Path

from stance.config.models import Model
from stance.config.training import Train
from stance.machine.files import read_json


def last_complete(folder: Path) -> str | None:
    """Return the newest checkpoint in `folder` whose writing was finished, or None.

    `trainer_state.json` is written last, so a checkpoint without a readable one was cut off by whatever ended the run.
    """
    steps = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((str(step) for step in steps if _is_json(step / "trainer_state.json")), None)


def checkpoint_key(model: Model, options: Train, seed: int, base: Path, pairs: Path) -> str:
    """Return the name of the folder for the checkpoints of a training: a hash of its inputs and of its code."""
    inputs = [model.model_dump_json(), options.model_dump_json(), str(seed)]
    code = [Path(__file__).with_name(name) for name in ("dpo.py", "progress.py", "watchdog.py")]
    inputs += [path.read_text(encoding="utf-8") for path in (base / "base.json", pairs / "train.jsonl", *code)]
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]


def _is_json(path: Path) -> bool:
    try:
        read_json(path)
    except (FileNotFoundError, ValueError):
        return False
    return True
