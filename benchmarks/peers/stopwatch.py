"""Times the training of any program that trains with transformers' Trainer, and changes nothing else in it.

transformers gives every trainer the callbacks of one list. `start` adds one to it, so all programs are timed the same.
"""

import atexit
import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml


def options() -> dict[str, Any]:
    """Return the block `train` of the `params.yaml` that our stage reads, too."""
    values: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    return values["train"] | {"seed": values["seed"], "on_gpu": values["model"]["device"] == "cuda"}


def rows(pairs: Path) -> list[dict[str, Any]]:
    """Return the pairs that our stage reads, in TRL's conversational format."""
    lines = pairs.read_text(encoding="utf-8").splitlines()
    return [{key: json.loads(line)[key] for key in ("prompt", "chosen", "rejected")} for line in lines]


def start(out: Path) -> None:
    """Time every trainer that is made from now on; the process writes `out` when it ends, after a failure too."""
    from transformers import TrainerCallback, trainer

    class Stopwatch(TrainerCallback):
        """Notes when the trainer is made, when each step and the training end, and what is logged."""

        def on_init_end(self, *args: Any, **kwargs: Any) -> None:
            noted["made"] = now()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            noted["steps"].append(now())

        def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" in logs:
                noted["losses"].append(float(logs["loss"]))

        def on_train_end(self, *args: Any, train_dataloader: Any, **kwargs: Any) -> None:
            noted["ended"] = now()
            noted["tokens"] = [length for row in train_dataloader.dataset for length in lengths(row)]
            noted["allocated"] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0

    noted: dict[str, Any] = {"steps": [], "losses": []}
    trainer.DEFAULT_CALLBACKS.append(Stopwatch)
    atexit.register(lambda: out.write_text(json.dumps(noted), encoding="utf-8"))


def now() -> float:
    """Return the time at which all that has been asked of the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def lengths(row: dict[str, Any]) -> list[int]:
    """Return the tokens of the two texts of a pair; TRL keeps the prompt apart, LLaMA-Factory with each answer."""
    prompt = len(row.get("prompt_ids", []))
    return [prompt + len(row.get(f"{name}_ids") or row[f"{name}_input_ids"]) for name in ("chosen", "rejected")]
