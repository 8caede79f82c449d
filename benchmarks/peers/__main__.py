"""Our stage `train` beside Unsloth and LLaMA-Factory: the same pairs and settings, one after the other, on one machine.

    python -m benchmarks.breeze_shape /tmp/breeze
    python -m benchmarks.peers /tmp/breeze OUT.json --unsloth FOLDER --llamafactory FOLDER --jobs 500x1 50x3
    python -m benchmarks.peers --small MODEL OUT.json --jobs 16x1      # a CPU, ours alone, on a narrow model

A job is a number of pairs and of epochs. A peer's FOLDER holds its packages (benchmarks/peers.md); several are joined
by colons. A peer that fails or takes too long is noted as such, and the others are measured all the same.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.course_run import arguments, machine, stage, write_dataset, write_params
from benchmarks.watch import cost
from stance.machine.files import read_json, write_json
from stance.machine.memory import gib

PEERS = ("llamafactory", "unsloth")
LONGER = 33  # characters, each a token, that make our texts of 43 tokens as long as the course's, 76
SKIPPED = 5  # steps that compile and warm up
QUIETLY = ("HF_HUB_OFFLINE=1", "UNSLOTH_DISABLE_STATISTICS=1", "DO_NOT_TRACK=1")
RATIOS = ("process", "training", "step", "gpu")


def prepare(folder: Path, model: Path, small: bool, pairs: int, epochs: int) -> None:
    """Run our stages up to the pairs, which all are trained on."""
    write_dataset(folder / "source", pairs, 10, LONGER)
    write_params(folder, model, small, 60, pairs__data_size=pairs, train__num_epoch=epochs)
    for name in ("dataset", "base", "pairs"):
        if name != "base" or not (folder / "data/base").exists():
            stage(folder, name)


def command(name: str, folder: Path, model: Path, out: Path, packages: str, limit: int) -> list[str]:
    """Return the command that trains in one of the three ways; a peer sees its own packages, and none of ours."""
    module = [sys.executable, "-m", f"benchmarks.peers.{'ours' if name == 'ours' else f'with_{name}'}", str(out)]
    limited = ["timeout", "-s", "INT", "-k", "10", str(limit)]
    if name == "ours":
        return [*limited, *module, *arguments("train")[1:]]
    path = f"PYTHONPATH={packages}{os.pathsep}{Path.cwd()}"
    return [*limited, "env", path, *QUIETLY, *module, str(model.resolve()), str(folder / "data/pairs/train.jsonl")]


def timed(name: str, folder: Path, model: Path, packages: str, limit: int, log: Path) -> dict[str, Any]:
    """Train in one of the three ways, and return its figures or why there are none."""
    out = folder / f"{name}.json"
    try:
        taken = cost(command(name, folder, model, out, packages, limit), folder, log)
    except subprocess.CalledProcessError as error:
        return {"failed": f"exit {error.returncode}", "noted": read_json(out) if out.exists() else None}
    return figures(read_json(out)) | {"process": taken.seconds, "gpu": taken.gpu, "host": taken.host}


def figures(noted: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of a training, with the reference, and of its median step, from what the stopwatch noted.

    A step lasts from the end of the one before to its own end, so that it includes its data and its log.
    """
    steps = [end - begin for begin, end in zip(noted["steps"], noted["steps"][1:], strict=False)]
    return {
        "training": noted["ended"] - noted["made"],
        "step": median(steps[SKIPPED - 1 :] or steps),
        "steps": len(noted["steps"]),
        "tokens": sum(noted["tokens"]) / len(noted["tokens"]),
        "longest": max(noted["tokens"]),
        "first_loss": noted["losses"][0],
        "last_loss": noted["losses"][-1],
        "allocated": noted["allocated"],
        "noted": noted,
    }


def ratios(measured: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return ours divided by theirs for every peer that was measured; below 1 we are ahead."""
    ours = measured["ours"]
    peers = {name: values for name, values in measured.items() if name != "ours" and "step" in values}
    if "step" not in ours:
        return {}
    return {name: {key: ours[key] / values[key] for key in RATIOS if values[key]} for name, values in peers.items()}


def show(job: str, measured: dict[str, dict[str, Any]], title: str) -> None:
    """Print what was measured."""
    columns = ("process, s", "training, s", "step, ms", "GPU GiB", "tokens", "steps", "first loss", "last loss")
    table = Table(job, *columns, title=title)
    for name, values in measured.items():
        table.add_row(name, *([values["failed"]] if "failed" in values else cells(values)))
    for name, shares in ratios(measured).items():
        table.add_row(f"ours / {name}", *(f"{shares[key]:.2f}" if key in shares else "" for key in RATIOS))
    Console(width=120).print(table)


def cells(values: dict[str, Any]) -> list[str]:
    """Return the figures of one training as cells."""
    seconds = [f"{values['process']:.1f}", f"{values['training']:.1f}", f"{values['step'] * 1000:.0f}"]
    losses = [f"{values['first_loss']:.4f}", f"{values['last_loss']:.4f}"]
    return [*seconds, gib(values["gpu"]), f"{values['tokens']:.1f}", str(values["steps"]), *losses]


def main() -> None:
    """Measure and print; the JSON that the command line names is written after every training."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("out", type=Path)
    for name in PEERS:
        ask.add_argument(f"--{name}", metavar="FOLDER")
    ask.add_argument("--jobs", nargs="+", default=["500x1"], metavar="PAIRSxEPOCHS")
    ask.add_argument("--limit", type=int, default=300, help="seconds for each training")
    ask.add_argument("--small", action="store_true")
    options = ask.parse_args()
    packages = {"ours": ""} | {name: getattr(options, name) for name in PEERS if getattr(options, name)}
    result: dict[str, Any] = {"machine": machine(), "jobs": {}}
    for job in options.jobs:
        pairs, epochs = map(int, job.split("x"))
        measured = result["jobs"].setdefault(job, {"measured": {}, "ratios": {}})["measured"]
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            prepare(folder, options.model, options.small, pairs, epochs)
            for name, path in packages.items():
                log = options.out.with_name(f"{name}-{job}.log")
                measured[name] = timed(name, folder, options.model, path, options.limit, log.resolve())
                result["jobs"][job]["ratios"] = ratios(measured)
                write_json(options.out, result)
        show(job, measured, result["machine"])


if __name__ == "__main__":
    main()
