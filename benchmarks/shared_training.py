"""Several runs of a grid as adapters on one frozen base, in shared batches: is each the adapter that is trained alone?

    python -m benchmarks.breeze_shape /tmp/breeze && python -m benchmarks.shared_training /tmp/breeze OUT.json
    python -m benchmarks.shared_training --small MODEL OUT.json      # a CPU, whole weights, a narrow model

The runs differ in ratio, seed and fold. First our trainer trains each, as the stage `train` does, and every batch that
it reads is kept, with the reference's log-probabilities in it. A minimal loop then reads the same batches: one run
after the other (*alone*), and all at once (*shared*). Three further ways change nothing but the arithmetic: alone
*again*, with texts *padded* to multiples of 16, and with each batch *split* in two. The last two are the noise.

*Within the noise* means: no run's adapter is further from the one trained alone than the furthest padded or split one
is. Our trainer's own adapters (*product*) are held against it as well.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import torch
from datasets import Dataset
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PrinterCallback
from trl.trainer.dpo_config import DPOConfig

from benchmarks.course_run import machine, write_dataset, write_params
from benchmarks.shared_adapters import (
    Batch,
    Factors,
    Layers,
    Training,
    adapted,
    distance,
    install,
    joined,
    margins,
    trained,
)
from stance.config.params import Params
from stance.data.chat import load_tokenizer
from stance.data.pairs import split, training_pairs
from stance.data.preferences import Pair
from stance.data.questions import read_questions
from stance.machine.files import write_json
from stance.machine.memory import gib
from stance.training.dpo import beginning, dpo_config, precompute_reference, prepare_policy, save_adapter
from stance.training.merging import release_memory
from stance.training.retaining import RetainingTrainer

HELD_OUT = 10
PAD_TO = 16
NOISE: dict[str, dict[str, int]] = {"again": {}, "padded": {"multiple": PAD_TO}, "split": {"parts": 2}}


class Plan(NamedTuple):
    """What distinguishes a run of the grid."""

    ratio: Decimal
    seed: int
    offset: int


class Recording(RetainingTrainer):
    """Our trainer, which keeps what it reads and its losses."""

    read: list[Batch]
    losses: list[float]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: Any = False, num_items_in_batch: Any = None) -> Any:
        """Return our trainer's loss."""
        self.read.append({name: value.cpu() for name, value in inputs.items()})
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.losses.append(loss.item())
        return loss


class Run(NamedTuple):
    """A run as our trainer has trained it."""

    start: Factors
    batches: list[Batch]
    held_out: Batch
    factors: Factors
    losses: Tensor
    seconds: float


def product(
    plan: Plan, params: Params, model: Path, folder: Path, keep: Path | None = None
) -> tuple[Run, torch.nn.Module, DPOConfig]:
    """Train a run as the stage `train` does; return it, and the base in which its adapter still is."""
    release_memory()
    options, system = params.pairs.model_copy(update={"support_ratio": plan.ratio}), params.model.system_prompt
    used, held_out = split(read_questions(folder / "source"), options.data_size, plan.offset)
    trainer = Recording(
        train_dataset=texts(training_pairs(used, options, system, plan.seed)),
        eval_dataset=texts(training_pairs(held_out, options, system, plan.seed)),  # nothing evaluates it in training
        processing_class=load_tokenizer(model),
        **beginning(dpo_config(params.model, params.train, plan.seed, folder / "trainer"), params.model, params.train,
                    model, folder / "no-tuned"),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.read, trainer.losses = [], []
    policy = cast(PeftModel, trainer.model)
    prepare_policy(policy, params.train.lora_dropout)
    start, began = factors_of(policy), time.monotonic()
    precompute_reference(trainer)
    trainer.train()
    seconds = time.monotonic() - began
    if keep:
        save_adapter(policy, keep)
    asked = trainer.data_collator(list(cast(Dataset, trainer.eval_dataset)))
    run = Run(start, trainer.read, asked, factors_of(policy), torch.tensor([trainer.losses]), seconds)
    return run, cast(torch.nn.Module, policy.get_base_model()), trainer.args


def texts(pairs: Sequence[Pair]) -> Dataset:
    """Return pairs in TRL's format."""
    return Dataset.from_list([pair.model_dump(include={"prompt", "chosen", "rejected"}) for pair in pairs])


def factors_of(policy: torch.nn.Module) -> Factors:
    """Return a copy of the factors of PEFT's adapter."""
    return {
        name: (copied(layer.lora_A["default"].weight), copied(layer.lora_B["default"].weight))
        for name, layer in policy.named_modules()
        if isinstance(layer, LoraLayer)
    }


def copied(weight: Tensor) -> Tensor:
    """Return a copy on the CPU, of one run; shape (1, ...)."""
    return weight.detach().cpu().clone()[None]


def of_run(factors: Factors, place: int) -> Factors:
    """Return the factors of one of several runs."""
    return {name: (a[place : place + 1], b[place : place + 1]) for name, (a, b) in factors.items()}


@torch.no_grad()
def held_out_margins(model: torch.nn.Module, layers: Layers, run: Run, factors: Factors, config: DPOConfig) -> Tensor:
    """Return an adapter's margins on the pairs that its run holds out; the reference is its own beginning."""
    found = []
    for installed in (factors, run.start):
        [weight, *_] = install(layers, [installed])
        found.append(margins(model, joined([run.held_out], weight.device), config)[0].cpu())
    return found[0] - found[1]


def compared(model: torch.nn.Module, layers: Layers, runs: Sequence[Run], config: DPOConfig) -> dict[str, Any]:
    """Train every run in every way; return what each took, and how far its adapters are from those trained alone."""

    def loop(chosen: Sequence[Run], **how: int) -> Training:
        return trained(model, layers, [run.start for run in chosen], [run.batches for run in chosen], config, **how)

    alone = [loop([run]) for run in runs]
    together = {size: loop(runs[:size]) for size in sizes(len(runs))}
    shared = together[len(runs)]
    ways = {
        "product": [(run.factors, run.losses[0]) for run in runs],
        "shared": [(of_run(shared.factors, place), shared.losses[place]) for place in range(len(runs))],
    }
    for name, how in NOISE.items():
        ways[name] = [(found.factors, found.losses[0]) for found in (loop([run], **how) for run in runs)]
    apart = {
        name: [differences(model, layers, *found, config) for found in zip(runs, alone, way, strict=True)]
        for name, way in ways.items()
    }
    seconds = {"product": sum(run.seconds for run in runs), "alone": sum(found.seconds for found in alone)}
    kept = [held_out_margins(model, layers, run, own.factors, config) for run, own in zip(runs, alone, strict=True)]
    return {
        "seconds": seconds | {"shared": shared.seconds},
        "sizes": {
            size: {"seconds": found.seconds, "step_ms": 1000 * found.step, "peak": found.peak}
            for size, found in {1: alone[0], **together}.items()
        },
        "losses": {"alone": [found.losses[0].tolist() for found in alone], "shared": shared.losses.tolist()},
        "held_out_margins": [found.tolist() for found in kept],
        "apart": apart,
        "within_the_noise": {name: within(apart, name) for name in ("shared", "product")},
    }


def sizes(most: int) -> list[int]:
    """Return how many runs are trained at once: two, four and so on, and all."""
    found = [2**power for power in range(1, most.bit_length()) if 2**power < most]
    return [*found, most]


def differences(
    model: torch.nn.Module, layers: Layers, run: Run, own: Training, other: tuple[Factors, Tensor], config: DPOConfig
) -> dict[str, float]:
    """Return how far another training of a run is from that alone."""
    factors, losses = other
    first, second = (held_out_margins(model, layers, run, each, config) for each in (own.factors, factors))
    return {
        "update": distance(own.factors, factors, next(model.parameters()).device),
        "loss": float((own.losses[0] - losses).abs().max()),
        "margin": float((first - second).abs().max()),
    }


def within(apart: Mapping[str, Sequence[Mapping[str, float]]], name: str) -> dict[str, bool]:
    """Return for each figure whether no run of a way is further from that alone than the noise is."""
    noise = [run for way in ("padded", "split") for run in apart[way]]
    return {key: max(run[key] for run in apart[name]) <= max(run[key] for run in noise) for key in noise[0]}


def plans(number: int) -> list[Plan]:
    """Return the runs of a grid: ratios from 1 to 0, each with a seed and a fold of its own."""
    steps = max(1, number - 1)
    return [Plan(1 - Decimal(place) / steps, 42 + place, HELD_OUT * place) for place in range(number)]


def shared_training(
    model: Path, small: bool, pairs: int, epochs: float, adapters: int, keep: Path | None = None
) -> dict[str, Any]:
    """Measure everything and return it."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_dataset(folder / "source", pairs + HELD_OUT, 1)
        whole = {"model__quantization": "none", "train__precompute_ref_log_probs": True} if small else {}
        write_params(folder, model, small, 30, pairs__data_size=pairs, train__num_epoch=epochs, **whole)
        params = Params.load(folder / "params.yaml")
        *others, last = plans(adapters)
        runs = [product(plan, params, model, folder)[0] for plan in others]
        run, base, config = product(last, params, model, folder, keep)
        release_memory()
        result = compared(base, adapted(base), [*runs, run], config)
    grid = [{"ratio": float(plan.ratio), "seed": plan.seed, "offset": plan.offset} for plan in (*others, last)]
    return {"machine": machine(), "pairs": pairs, "epochs": epochs, "runs": grid, **result}


def show(result: dict[str, Any]) -> None:
    """Print what was measured."""
    costs = Table("adapters at once", "median step, ms", "GPU GiB", title=result["machine"])
    for size, found in result["sizes"].items():
        costs.add_row(str(size), f"{found['step_ms']:.1f}", gib(found["peak"]))
    table = Table("from alone, worst run", "updates, relative", "loss of a step", "held-out margin")
    for name, runs in result["apart"].items():
        table.add_row(name, *(f"{max(run[key] for run in runs):.2g}" for key in runs[0]))
    console = Console(width=100)
    console.print(costs)
    console.print(table)
    console.print_json(data={key: result[key] for key in ("seconds", "within_the_noise")})


def main() -> None:
    """Measure, print, and write the JSON that the command line names."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("out", type=Path)
    ask.add_argument("--pairs", type=int, default=50)
    ask.add_argument("--epochs", type=float, default=3)
    ask.add_argument("--adapters", type=int, default=4)
    ask.add_argument("--keep", type=Path, help="where our trainer's adapter of the last run is written")
    ask.add_argument("--small", action="store_true")
    options = ask.parse_args()
    result = shared_training(
        options.model, options.small, options.pairs, options.epochs, options.adapters, options.keep
    )
    write_json(options.out, result)
    show(result)


if __name__ == "__main__":
    main()
