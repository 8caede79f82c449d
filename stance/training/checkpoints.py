"""Checkpoints of a training: the name of their folder, and the newest complete one."""

import hashlib
from pathlib import Path

from stance.config.models import Model
from stance.config.training import Train
from stance.machine.files import read_json

CODE = ("compilation.py", "dpo.py", "early_stop.py", "parallel.py", "progress.py", "retaining.py", "watchdog.py")
"""The modules of this folder that decide how a training goes on."""


def checkpoint_key(model: Model, options: Train, seed: int, base: Path, pairs: Path, tuned: Path) -> str:
    """Return the name of the folder for a training's checkpoints: a hash of its inputs and of its code, 16 digits."""
    inputs = [model.model_dump_json(), options.model_dump_json(), str(seed)]
    code = [Path(__file__).with_name(name) for name in CODE]
    read = (base / "base.json", pairs / "train.jsonl", *code)
    inputs += [path.read_text(encoding="utf-8") for path in read]
    optional = (pairs / "retained.jsonl", tuned / "sft.json")
    inputs += [path.read_text(encoding="utf-8") for path in optional if path.exists()]
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]


def last_complete(folder: Path) -> str | None:
    """Return the newest complete checkpoint in `folder`, or None.

    The trainer writes `trainer_state.json` last. A checkpoint without a readable one was cut off when the run ended.
    """
    steps = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((str(step) for step in steps if _is_json(step / "trainer_state.json")), None)


def _is_json(path: Path) -> bool:
    try:
        read_json(path)
    except (FileNotFoundError, ValueError):
        return False
    return True
