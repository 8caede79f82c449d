"""Adapters of several runs on one frozen base, trained in shared batches by a minimal loop.

In: the base that TRL's trainer has prepared, and the batches that it has read for each run, with the reference's
log-probabilities in them. Out: the adapter of every run, and what the training took. The optimiser, the schedule, the
clipping, the loss and the arithmetic are those of TRL's trainer; every adapter is clipped by its own norm.
"""

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn.functional import logsigmoid, pad
from transformers import Trainer, get_scheduler
from trl.trainer.dpo_config import DPOConfig

from stance.training.merging import release_memory

Batch = dict[str, Tensor]
"""TRL's batch: first all chosen texts, then all rejected ones."""
Factors = dict[str, tuple[Tensor, Tensor]]
"""A, shape (runs, r, in), and B, shape (runs, out, r), by layer, on the CPU."""
Layers = Mapping[str, "Adapters"]


class Adapters(torch.nn.Module):
    """A frozen linear layer with an adapter for every run; equal parts of the rows go each through its own."""

    def __init__(self, base: torch.nn.Module, scale: float) -> None:
        """Take the frozen layer, and the scale of the changes."""
        super().__init__()
        self.base, self.scale = base, scale

    def forward(self, rows: Tensor) -> Tensor:
        """Return the layer's results; shapes (rows, tokens, in) and (rows, tokens, out)."""
        of_runs = rows.reshape(len(self.a), -1, rows.shape[-1])
        change = of_runs @ self.a.mT @ self.b.mT
        return cast(Tensor, self.base(rows)) + change.view(*rows.shape[:-1], -1) * self.scale


class Training(NamedTuple):
    """A training by the minimal loop."""

    factors: Factors
    losses: Tensor
    """Shape (runs, steps)."""
    seconds: float
    step: float
    """Median, in seconds."""
    peak: int
    """Bytes of GPU memory that torch had allocated at most, the base included."""


def adapted(model: torch.nn.Module) -> dict[str, Adapters]:
    """Put `Adapters` in the place of PEFT's layers, and return them by the names that `factors_of` gives."""
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    layers = {}
    for name, layer in found.items():
        own = Adapters(layer.get_base_layer(), layer.scaling["default"])
        model.set_submodule(name, own)
        layers[f"base_model.model.{name}"] = own
    return layers


def install(layers: Layers, runs: Sequence[Factors]) -> list[torch.nn.Parameter]:
    """Give every layer the factors of some runs, and return these parameters."""
    for name, layer in layers.items():
        device = next(layer.base.parameters()).device
        a, b = (torch.cat(factors).to(device) for factors in zip(*(run[name] for run in runs), strict=True))
        layer.a, layer.b = torch.nn.Parameter(a), torch.nn.Parameter(b)
    return [parameter for layer in layers.values() for parameter in (layer.a, layer.b)]


def joined(batches: Sequence[Batch], device: Any, multiple: int = 1) -> Batch:
    """Return the batches of several runs as one, of shape (runs, 2, pairs) and for texts (runs, 2, pairs, tokens)."""
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    longest += -longest % multiple
    found = {
        name: torch.stack([pad(batch[name], (0, longest - batch[name].shape[1])) for batch in batches])
        for name in ("input_ids", "attention_mask", "completion_mask")
    }
    found = {name: value.unflatten(1, (2, -1)) for name, value in found.items()}
    if "ref_chosen_logps" in batches[0]:
        pairs = [torch.stack([batch["ref_chosen_logps"], batch["ref_rejected_logps"]]) for batch in batches]
        found["reference"] = torch.stack(pairs)
    return {name: value.to(device) for name, value in found.items()}


def margins(model: torch.nn.Module, batch: Batch, config: DPOConfig) -> Tensor:
    """Return beta times how much more the policy favours each chosen answer than the reference. Shape (runs, pairs)."""
    ids, read, answered = (batch[key].flatten(0, 2) for key in ("input_ids", "attention_mask", "completion_mask"))
    labels = ids.masked_fill(answered == 0, -100)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=config.bf16):
        found = model(input_ids=ids, attention_mask=read, labels=labels, use_cache=False, fused_lm_head=True)
    logps = found.log_probs.sum(dim=1).view(batch["input_ids"].shape[:3])
    chosen, rejected = (logps - batch.get("reference", 0)).unbind(1)
    return cast(Tensor, config.beta * (chosen - rejected))


def clip(gradients: Sequence[Tensor], most: float) -> None:
    """Scale the gradients of every run down to a norm of at most `most`, as torch's `clip_grad_norm_` does for one."""
    norms = torch.stack([torch.linalg.vector_norm(gradient, dim=(1, 2)) for gradient in gradients]).norm(dim=0)
    shares = (most / (norms + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(shares[:, None, None])


def trained(
    model: torch.nn.Module, layers: Layers, starts: Sequence[Factors], read: Sequence[Sequence[Batch]],
    config: DPOConfig, multiple: int = 1, parts: int = 1,
) -> Training:  # fmt: skip
    """Train the adapters of some runs at once: with the sum of their losses, each gets the gradient of its own.

    Args:
        model: The base, with `layers` in it.
        layers: What `adapted` returns for it.
        starts: Where each adapter begins.
        read: The batches of each run, one per step.
        config: The settings of the training.
        multiple: Texts are padded to multiples of this length.
        parts: Parts into which each batch is split; their gradients are added up.
    """
    release_memory()
    weights = install(layers, starts)
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(config)
    optimizer = kind(weights, weight_decay=config.weight_decay, **settings)
    steps = list(zip(*read, strict=True))
    schedule = get_scheduler(config.lr_scheduler_type, optimizer, config.get_warmup_steps(len(steps)), len(steps))
    losses, marks = [], [finished(weights[0], reset=True)]
    for batches in steps:
        batch = joined(batches, weights[0].device, multiple)
        pairs, loss = batch["input_ids"].shape[2], torch.zeros(len(starts))
        for values in zip(*(value.chunk(parts, dim=2) for value in batch.values()), strict=True):
            part = -logsigmoid(margins(model, dict(zip(batch, values, strict=True)), config)).sum(dim=1) / pairs
            part.sum().backward()
            loss += part.detach().cpu()
        clip([cast(Tensor, weight.grad) for weight in weights], config.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss)
        marks.append(finished(weights[0]))
    peak = torch.cuda.max_memory_allocated() if weights[0].is_cuda else 0
    factors = {name: (layer.a.detach().cpu(), layer.b.detach().cpu()) for name, layer in layers.items()}
    step = median(after - before for before, after in zip(marks, marks[1:], strict=False))
    return Training(factors, torch.stack(losses, dim=1), marks[-1] - marks[0], step, peak)


def finished(weight: Tensor, reset: bool = False) -> float:
    """Return the time once the GPU has done its work; count its memory anew if asked to."""
    if weight.is_cuda:
        torch.cuda.synchronize()
        if reset:
            torch.cuda.reset_peak_memory_stats()
    return time.monotonic()


@torch.no_grad()
def distance(some: Factors, other: Factors, device: torch.device) -> float:
    """Return how far the second adapter's changes of the weights are from the first one's, as a share of these."""
    apart = size = torch.zeros((), device=device)
    for name in some:
        first, second = (b.to(device) @ a.to(device) for a, b in (some[name], other[name]))
        apart, size = apart + (first - second).square().sum(), size + first.square().sum()
    return float((apart / size).sqrt())
