"""Drift between two copies of a model: differences of their log-probabilities on the same texts (teacher-forced).

Two greedy answers are a poor comparison, because one near-tie makes them diverge. The log-probabilities of the tokens
of a fixed answer can be compared token by token, in nats, so the drift has a mean and a worst case.

`floor` measures how much of it bf16 arithmetic alone brings (`stance.data.noise`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from stance.data.noise import Floor
from stance.data.training import Drift

Text = tuple[list[int], list[int]]
"""Token ids of a prompt, and of the answer to score."""
BATCH = 16
FLOOR_TEXTS = 48
"""Texts that the floor is measured on: some 1 000 tokens, enough for a mean within a few per cent."""


@dataclass(frozen=True)
class Scores:
    """Scores of a model for the answer tokens of one text. Every list has the shape (answer tokens,)."""

    logps: list[float]
    """Log-probability of each answer token, in nats."""
    top: list[int]
    """The most likely token at each position."""
    gap: list[float]
    """Lead of the most likely token over the second one, in nats."""
    behind: list[float] = field(default_factory=list)
    """Lead of the most likely token over the answer's token, in nats; 0 where they are the same."""


@torch.no_grad()
def score(model: torch.nn.Module, texts: Sequence[Text]) -> list[Scores]:
    """Return the scores of every text's answer. The model is switched to eval mode.

    Texts of similar length are computed together, because shorter ones are padded.
    """
    model.eval()
    order = sorted(range(len(texts)), key=lambda place: sum(map(len, texts[place])))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    scored = [scores for batch in batches for scores in _score_batch(model, [texts[place] for place in batch])]
    return [scores for _, scores in sorted(zip(order, scored, strict=True), key=itemgetter(0))]


def drift(reference: Sequence[Scores], other: Sequence[Scores], bound: float) -> Drift:
    """Compare two copies on the same texts.

    Args:
        reference: Scores by the first copy, one per text.
        other: Scores by the second copy of the same texts.
        bound: Nats. A different most likely token counts only if the first copy's lead is larger.

    Raises:
        ValueError: There is nothing to compare, or the texts are not the same.
    """
    tokens = [
        (abs(a - b), top_a != top_b and gap > bound)
        for r, o in zip(reference, other, strict=True)
        for a, b, top_a, top_b, gap in zip(r.logps, o.logps, r.top, o.top, r.gap, strict=True)
    ]
    if not tokens:
        raise ValueError("there are no answer tokens to compare")
    differences = [difference for difference, _ in tokens]
    flips = sum(flip for _, flip in tokens)
    mean = sum(differences) / len(tokens)
    return Drift(mean=mean, worst=max(differences), top_flips=flips, tokens=len(tokens))


def floor(model: torch.nn.Module, texts: Sequence[Text], scores: Sequence[Scores]) -> Floor:
    """Return the floor of a model with bf16 weights, on a sample of texts that are spread over all of them.

    Args:
        model: The model. One in float32 is turned into bf16 in place.
        texts: The texts that were scored.
        scores: Its scores, one per text, in the arithmetic that the model has.
    """
    step = max(1, len(texts) // FLOOR_TEXTS)
    sample, own = texts[::step], scores[::step]
    if model.dtype == torch.float32:
        with float32_products(model.bfloat16()):
            difference = drift(own, score(model, sample), bound=0)
    else:
        with float32_arithmetic(model):
            difference = drift(score(model, sample), own, bound=0)
    return Floor(mean=difference.mean, worst=difference.worst)


@contextmanager
def float32_arithmetic(model: torch.nn.Module) -> Iterator[None]:
    """Let a bf16 model calculate in float32, with its own weights.

    A module's weights are float32 only while the module works, so that one module and not the model needs twice the
    memory. bf16 to float32 and back loses nothing.
    """
    own = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    with _in_float32(own, torch.float32):
        yield


@contextmanager
def float32_products(model: torch.nn.Module) -> Iterator[None]:
    """Let a bf16 model calculate the products of its linear layers in float32 and round the results to bf16.

    A processor with products of bf16 does the same: it adds in float32. Without them, float32 is five times as fast.
    """
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    with _in_float32(linear, torch.bfloat16):
        yield


@contextmanager
def _in_float32(modules: Sequence[torch.nn.Module], result: torch.dtype) -> Iterator[None]:
    def widen(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.float()
        return tuple(_to(value, torch.float32) for value in args)

    def narrow(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.bfloat16()
        return _to(output, result)

    handles = [module.register_forward_pre_hook(widen) for module in modules]
    handles += [module.register_forward_hook(narrow) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _to(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _score_batch(model: torch.nn.Module, texts: Sequence[Text]) -> list[Scores]:
    rows = [torch.tensor(prompt + answer) for prompt, answer in texts]
    device = next(model.parameters()).device
    ids = pad_sequence(rows, batch_first=True).to(device)  # (texts, tokens)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(device)
    first = min(len(prompt) for prompt, _ in texts) - 1
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=ids.shape[1] - first).logits
    ends = [(len(prompt) - 1 - first, len(prompt) + len(answer) - 1 - first) for prompt, answer in texts]
    return [
        _scores(logits[row, start:end], answer)
        for row, ((start, end), (_, answer)) in enumerate(zip(ends, texts, strict=True))
    ]


def _scores(logits: torch.Tensor, answer: list[int]) -> Scores:
    logps = logits.float().log_softmax(-1)  # (answer tokens, vocabulary)
    best, top = logps.topk(2, dim=-1)
    chosen = logps[torch.arange(len(answer)), torch.tensor(answer)]
    lead, behind = best[:, 0] - best[:, 1], best[:, 0] - chosen
    return Scores(chosen.tolist(), top[:, 0].tolist(), lead.tolist(), behind.tolist())
