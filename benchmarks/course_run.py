"""The course's job three ways, in one run on one machine: its notebook, plain TRL, and this pipeline's stages.

    python -m benchmarks.breeze_shape /tmp/breeze && python -m benchmarks.course_run /tmp/breeze OUT.json
    python -m benchmarks.course_run --small MODEL OUT.json      # a CPU, the same steps on a narrow model

50 pairs, 3 epochs, ten test prompts, answers of 30 tokens (as long as the course's are) and of 200. Random weights do
not stop by themselves, so every answer has exactly that length. Our texts have 43 tokens on average; with `--longer 33`
they have 76, as the course's have. Our stages are the commands of `dvc.yaml`, each in a
process of its own whose start is part of its seconds.
"""

import argparse
import csv
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.watch import Cost, cost
from stance.config.profiles import compose
from stance.data.training import Parity
from stance.evaluation.validation import CORPORA
from stance.machine.files import read_json, read_jsonl, write_json
from stance.machine.memory import gib

SOURCE = Path("data/sources/live_action")
PROMPTS = 10
TOKENS = (30, 200)
SMALL_TOKENS = (4, 8)
STAGES = (
    "dataset", "base", "classifier", "answers_base", "pairs", "train", "merge", "answers_aligned", "judge", "evaluate",
    "report",
)  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "answers_eagerly": {"answers__enforce_eager": True},
    "answers_in_4_bits": {"answers__quantization": "bitsandbytes"},
    "train_in_bf16": {"model__quantization": "none"},
}
AGAIN = ("pairs", "train", "merge", "answers_aligned", "judge", "evaluate", "report")  # what another support_ratio runs
CAPPED = (
    "import sys, torch, runpy; torch.cuda.set_per_process_memory_fraction({fraction}); "
    "sys.argv = ['tasks.train', *{arguments}]; runpy.run_module('tasks.train', run_name='__main__')"
)
BASELINES = ("notebook", "padded", "trl")


def write_params(folder: Path, model: Path, small: bool, tokens: int, **overrides: Any) -> None:
    """Write `params.yaml` for our stages; an override's `__` stands for the dot."""
    changes = {
        "base": {"source": "folder", "path": str(model.resolve())},
        "dataset": {"source": "folder", "path": str(folder / "source"), "probes": None},  # the notebook asks none
        "train.lora_dropout": 0.0,
        "answers.max_new_tokens": tokens,
    }
    if small:
        changes |= {"model.device": "cpu", "train.optim": "adamw_torch", "train.precompute_ref_log_probs": False}
        changes |= {"answers.enforce_eager": True}
    changes |= {key.replace("__", "."): value for key, value in overrides.items()}
    values = compose("breeze-7b", changes)
    (folder / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")


def write_dataset(folder: Path, questions: int, prompts: int, longer: int = 0) -> None:
    """Write our own questions, repeated as often as it takes, as many as are asked for.

    Every answer is made longer by so many of its own characters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in (("labelled_data.json", questions), ("test_prompt.json", prompts)):
        rows = read_json(SOURCE / name)
        repeated = [lengthened(rows[n % len(rows)], longer) | {"id": n + 1} for n in range(number)]
        (folder / name).write_text(json.dumps(repeated, ensure_ascii=False), encoding="utf-8")


def lengthened(row: dict[str, Any], longer: int) -> dict[str, Any]:
    """Return a question whose answers are longer by so many of their own characters."""
    answers = {name: row[name] for name in ("support", "oppose", "neutral") if row.get(name)}
    return row | {name: (text * (longer + 1))[: len(text) + longer] for name, text in answers.items()}


def stage(folder: Path, name: str, label: str = "") -> Cost:
    """Run the command that `dvc.yaml` gives a stage; its log is named after the label, if there is one."""
    return cost([sys.executable, *arguments(name)], folder, folder / f"{label or name}.log")


def own_times(folder: Path, label: str) -> list[str]:
    """Return the lines of a log in which our stages state seconds of their own."""
    lines = (folder / f"{label}.log").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if re.search(r"engine ready in|scores in|trained in", line)]


def arguments(stage_name: str) -> list[str]:
    """Return what follows `python` in a stage's command."""
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))
    arguments: list[str] = pipeline["stages"][stage_name]["cmd"].split()[1:]
    return arguments


def ours(folder: Path, model: Path, small: bool, tokens: tuple[int, ...]) -> dict[str, Any]:
    """Run all stages, and those that answer once more for every other limit of tokens."""
    last = tokens[-1]
    write_params(folder, model, small, last)
    shutil.copytree(CORPORA.parent, folder / CORPORA.parent)
    costs = {name: stage(folder, name) for name in STAGES}
    answered = {str(last): lengths(folder)}
    for limit in tokens[:-1]:
        write_params(folder, model, small, limit)
        for name in ("answers_base", "answers_aligned"):
            costs[f"{name}_{limit}"] = stage(folder, name, f"{name}_{limit}")
        answered[str(limit)] = lengths(folder)
    return {
        "costs": {name: value._asdict() for name, value in costs.items()},
        "losses": losses(folder),
        "tokens": answered,
        "said": {name: own_times(folder, name) for name in costs},
        "parity": Parity.read(folder / "data/merge/parity.json").model_dump(),
    }


def lengths(folder: Path) -> dict[str, list[int]]:
    """Return the tokens of every answer; where one is short, times cannot be compared."""
    names = ("base", "aligned")
    return {name: [row["tokens"] for row in read_jsonl(folder / f"data/answers/{name}.jsonl")] for name in names}


def variants(folder: Path, model: Path) -> dict[str, Any]:
    """On a GPU: training in bf16 and within 16 GB, and answering without CUDA graphs or in 4 bits."""
    import torch

    figures: dict[str, Any] = {}
    write_params(folder, model, False, TOKENS[-1])
    code = CAPPED.format(fraction=16e9 / torch.cuda.mem_get_info()[1], arguments=arguments("train")[2:])
    figures["train_in_16_GB"] = cost([sys.executable, "-c", code], folder, folder / "train_in_16_GB.log")._asdict()
    for name, override in VARIANTS.items():
        write_params(folder, model, False, TOKENS[-1], **override)
        stage_name = "train" if name.startswith("train") else "answers_aligned"
        figures[name] = stage(folder, stage_name, name)._asdict() | {
            "said": own_times(folder, name),
            "losses": losses(folder),
        }
    return figures


def losses(folder: Path) -> list[float]:
    """Return the loss of every optimiser step of our last training."""
    with (folder / "data/train/log.csv").open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def baseline(name: str, folder: Path, model: Path, tokens: tuple[int, ...]) -> dict[str, Any]:
    """Run one of `benchmarks/baselines.py`."""
    out = folder / f"{name}.json"
    command = [sys.executable, "-m", "benchmarks.baselines", name, str(model.resolve())]
    paths = [str(folder / "data/dataset"), str(folder / "data/pairs"), str(out)]
    taken = cost([*command, *paths, "--tokens", *map(str, tokens)], Path.cwd(), folder / f"{name}.log")
    return {**read_json(out), "cost": taken._asdict()}


def summary(result: dict[str, Any], tokens: tuple[int, ...]) -> dict[str, Any]:
    """Return totals and ratios; the notebook is run again as a whole, ours without what has not changed."""
    book, costs = result["notebook"], result["ours"]["costs"]
    seconds = {name: value["seconds"] for name, value in costs.items()}
    figures: dict[str, Any] = {}
    for limit in tokens:
        suffix = "" if limit == tokens[-1] else f"_{limit}"
        mine = {name: seconds.get(f"{name}{suffix}", seconds[name]) for name in STAGES}
        phases = ("import", "load", f"before_{limit}", "train", f"after_{limit}")
        theirs = sum(book["seconds"].get(phase, 0.0) for phase in phases)
        each = book["seconds"][f"after_{limit}"] / PROMPTS
        figures[str(limit)] = {
            "notebook": theirs,
            "ours": sum(mine.values()),
            "ours_again": sum(mine[name] for name in AGAIN),
            "times_faster": theirs / sum(mine.values()),
            "times_faster_again": theirs / sum(mine[name] for name in AGAIN),
            "prompts_from_which_vllm_wins": round(mine["answers_aligned"] / each),
        }
    figures["worst_loss_difference"] = apart(book["losses"], result["ours"]["losses"])
    figures["notebook_padded_from_notebook"] = apart(book["losses"], result["padded"]["losses"])
    for name, value in result.get("variants", {}).items():
        if name.startswith("train_") and "losses" in value:
            figures[f"worst_loss_difference_{name}"] = apart(book["losses"], value["losses"])
    return figures


def apart(some: Sequence[float], others: Sequence[float]) -> float:
    """Return the largest difference between the losses of two trainings, step by step."""
    return max(abs(a - b) for a, b in zip(some, others, strict=True))


def show(result: dict[str, Any]) -> None:
    """Print what was measured."""
    table = Table("", "seconds", "GPU GiB", "host GiB", title=result["machine"])
    for name, value in result["ours"]["costs"].items():
        table.add_row(f"ours: {name}", *numbers(value))
    for name, value in result.get("variants", {}).items():
        table.add_row(f"ours: {name}", *numbers(value))
    for name in ("notebook", "trl"):
        for phase, seconds in result[name]["seconds"].items():
            table.add_row(f"{name}: {phase}", f"{seconds:.1f}")
        table.add_row(f"{name}: whole process", *numbers(result[name]["cost"]))
    console = Console(width=100)
    console.print(table)
    console.print_json(data=result["summary"])


def numbers(value: dict[str, float]) -> list[str]:
    """Return a cost as cells."""
    return [f"{value['seconds']:.1f}", gib(value["gpu"]), gib(value["host"])]


def machine() -> str:
    """Return what this runs on."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{name}, torch {torch.__version__}, Python {sys.version.split()[0]}"


def course_run(model: Path, small: bool, longer: int) -> dict[str, Any]:
    """Measure everything and return it."""
    tokens = SMALL_TOKENS if small else TOKENS
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_dataset(folder / "source", 50, PROMPTS, longer)
        result: dict[str, Any] = {"machine": machine(), "ours": ours(folder, model, small, tokens)}
        if not small:
            result["variants"] = variants(folder, model)
        result |= {name: baseline(name, folder, model, tokens if name == "notebook" else ()) for name in BASELINES}
    return result | {"summary": summary(result, tokens)}


def main() -> None:
    """Measure, print, and write the JSON that the command line names."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("out", type=Path)
    ask.add_argument("--small", action="store_true")
    ask.add_argument("--longer", type=int, default=0, help="characters that each answer is made longer by (default: 0)")
    options = ask.parse_args()
    result = course_run(options.model, options.small, options.longer)
    write_json(options.out, result)
    show(result)


if __name__ == "__main__":
    main()
