"""Take the adapter and the log of the stage `rl` over as those of the training, whichever road made the model."""

import csv
import shutil
from pathlib import Path

from stance.data.reinforcement import Reinforcement
from stance.data.training import Watchdog
from stance.machine.files import write_json


def hand_over(reinforced: Path, adapter: Path, out: Path) -> None:
    """Copy an adapter and its log.

    Args:
        reinforced: `data/rl`.
        adapter: Receives the adapter in PEFT's format.
        out: Receives `log.csv`; `metrics.json`, its last row; `watchdog.json`; and `joint.json`.

    Raises:
        InputError: The record of the reinforcement learning is missing or in another format.
    """
    record = Reinforcement.read(reinforced / "rl.json")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(reinforced / "adapter", adapter, dirs_exist_ok=True)
    for name in ("log.csv", "joint.json"):
        shutil.copyfile(reinforced / name, out / name)
    Watchdog(reason=record.reason, step=record.step, steps=record.steps).write(out / "watchdog.json")
    with (out / "log.csv").open(encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    write_json(out / "metrics.json", {name: float(value) for name, value in last.items()})
