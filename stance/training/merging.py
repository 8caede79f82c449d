"""The arithmetic of a merge, shard by shard, and its check against the trained model."""

import gc
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from stance.config.models import Model
from stance.config.training import Merge
from stance.data.chat import encode_answer
from stance.errors import InputError
from stance.machine.files import read_json, read_jsonl, write_json
from stance.machine.memory import GIB, gib, own_memory
from stance.models.base import bf16_bytes, small_files, weight_files
from stance.models.loading import linear_layers, load, outline
from stance.models.parity import Drift, Scores, Text, drift, score

logger = logging.getLogger(__name__)


SHARDS = 4  # at once
ROOM = 2 * GIB  # bytes for what a forward pass needs beside the weights


def candidates(model: Model, options: Merge) -> list[str]:
    """Return the weights that the adapter may be added to."""
    if options.base == "dequantized" and model.quantization == "none":
        raise InputError(
            "merge.base is dequantized and model.quantization is none, so there are no 4-bit weights; "
            "set merge.base to original"
        )
    if options.base != "measured":
        return [options.base]
    return ["original"] if model.quantization == "none" else ["original", "dequantized"]


def with_adapter(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """Return the model with the adapter on, as it was trained."""
    return PeftModel.from_pretrained(model, str(adapter))


class Update(NamedTuple):
    """What becomes of the base's weights."""

    factors: dict[str, tuple[Tensor, Tensor]]
    """Weight name to A, shape (r, in), and B, shape (out, r)."""
    scale: float
    """W + scale B A is the merged weight (LoRA, arXiv 2106.09685, section 4.1)."""
    quantized: frozenset[str]
    """Weights that are rounded to NF4 and back before, as in training."""

    def names(self) -> frozenset[str]:
        """Return the weights that it changes."""
        return self.quantized | self.factors.keys()

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        """Return the merged weight, on the device and in the dtype of the base's."""
        if name not in self.names():
            return weight
        merged = weight.to(torch.bfloat16)
        if name in self.quantized:
            merged = rounded(merged)
        if name in self.factors:
            a, b = (factor.to(weight.device).float() for factor in self.factors[name])
            merged = merged.float() + self.scale * (b @ a)
        return merged.to(weight.dtype)


def update(name: str, folder: Path, adapter: Path) -> Update:
    """Return how the base in `folder` is merged with the adapter, on `original` or `dequantized` weights."""
    options = read_json(adapter / "adapter_config.json")
    tensors = load_file(adapter / "adapter_model.safetensors")
    prefix, a, b = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
    layers = [key.removeprefix(prefix).removesuffix(a) for key in tensors if key.endswith(a)]
    factors = {f"{layer}.weight": (tensors[prefix + layer + a], tensors[prefix + layer + b]) for layer in layers}
    quantized = linear_weights(folder) if name == "dequantized" else frozenset[str]()
    return Update(factors, options["lora_alpha"] / options["r"], quantized)


def linear_weights(folder: Path) -> frozenset[str]:
    """Return the names of the weights that are 4-bit in training."""
    layers = linear_layers(outline(AutoConfig.from_pretrained(str(folder))))
    return frozenset(f"{name}.weight" for name in layers)


def rounded(weight: Tensor) -> Tensor:
    """Return a weight as it is after NF4 quantisation."""
    packed, state = quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(packed, state)


def measured(
    folder: Path,
    changes: Mapping[str, Update],
    device: str,
    trained: Sequence[Scores],
    texts: Sequence[Text],
    bound: float,
) -> dict[str, Drift]:
    """Return how far each candidate is from the trained model, merged in memory, before 15 GB are written.

    The base is loaded once; what a candidate has changed is read again for the next.
    """
    model = load(folder, device)
    weights = dict(model.named_parameters())
    found: dict[str, Drift] = {}
    changed = frozenset[str]()
    for name, change in changes.items():
        for key, tensor in read_weights(folder, changed, device):
            weights[key].data = tensor
        changed = change.names() & weights.keys()
        for key in changed:
            weights[key].data = change(key, weights[key].data)
        found[name] = drift(trained, score(model, texts), bound)
    return found


def read_weights(folder: Path, names: Set[str], device: str) -> Iterator[tuple[str, Tensor]]:
    """Yield weights of a model folder by name."""
    for name in weight_files(folder, [path.name for path in folder.iterdir()], str(folder)) if names else []:
        with safe_open(folder / name, framework="pt", device=device) as file:
            yield from ((key, file.get_tensor(key)) for key in names & set(file.keys()))


def write_merged(folder: Path, change: Update, device: str, merged: Path) -> None:
    """Write the merged model as the base names, divides and types it; its files of weights side by side."""
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    names = [path.name for path in folder.iterdir()]
    for name in small_files(names):
        shutil.copyfile(folder / name, merged / name)
    shards = weight_files(folder, names, str(folder))
    with ThreadPoolExecutor(SHARDS) as threads:
        written = threads.map(lambda name: write_shard(folder, change, device, merged / name), shards)
    if lost := sorted(change.factors.keys() - set(chain(*written))):
        raise InputError(
            f"the adapter changes {lost[0]}, and {folder} has no weight of that name; choose a base whose file names "
            "its weights as its modules are named"
        )


def write_shard(folder: Path, change: Update, device: str, path: Path) -> list[str]:
    """Write one file of merged weights, one weight after the other, and return the names that are in it.

    Names, dtypes and shapes are the base's, and so are the file's first bytes (safetensors: the length of a header, the
    header, then the weights in the order of their offsets).
    """
    with safe_open(folder / path.name, framework="pt", device=device) as base, path.open("wb") as file:
        keys = base.offset_keys()
        file.write(header(folder / path.name))
        for key in keys:
            file.write(on_host(change(key, base.get_tensor(key))))
    return list(keys)


def header(path: Path) -> bytes:
    """Return what a safetensors file holds before the weights."""
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))


def on_host(weight: Tensor) -> memoryview:
    """Return a weight's bytes; pinned memory, which torch keeps for the next one, makes the copy from a GPU fast."""
    flat = weight.contiguous().flatten().view(torch.uint8)
    if flat.is_cuda:
        flat = torch.empty_like(flat, device="cpu", pin_memory=True).copy_(flat)
    return flat.numpy().data


def scoring_device(folder: Path, model: Model) -> str:
    """Return where the bf16 model is scored: the GPU if it has room for it, else the CPU."""
    needed = bf16_bytes(folder) + ROOM
    if model.device == "cpu" or own_memory(model.device).free > needed:
        return model.device
    logger.info("the GPU has no room for %s GiB of bf16 weights; scoring on the CPU, which takes minutes", gib(needed))
    return "cpu"


def release_memory() -> None:
    """Give the memory of models that are no longer referred to back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def pair_rows(pairs: Path) -> list[dict[str, Any]]:
    """Return all preference pairs, trained and held out."""
    return read_jsonl(pairs / "train.jsonl") + read_jsonl(pairs / "eval.jsonl")


def answer_texts(tokenizer: PreTrainedTokenizerFast, row: Mapping[str, Any]) -> list[Text]:
    """Return the token ids of a pair's chosen and rejected answers, after its prompt."""
    return [encode_answer(tokenizer, row["prompt"], row[side][0]["content"]) for side in ("chosen", "rejected")]


def write_parity(out: Path, chosen: str, drifts: Mapping[str, Drift], final: Drift) -> None:
    """Write `parity.json`: the weights that were chosen, the final drift and that of every candidate."""
    measured = {name: asdict(value) for name, value in drifts.items()}
    write_json(out / "parity.json", {"base": chosen, **asdict(final), "candidates": measured})


def write_logps(out: Path, rows: Sequence[Mapping[str, Any]], scores: Sequence[Scores]) -> None:
    """Write per question the log-probabilities of the tokens of its labelled answers, by stance."""
    record: dict[int, dict[str, list[float]]] = {}
    for row, chosen, rejected in zip(rows, scores[::2], scores[1::2], strict=True):
        found = {row["preferred"]: chosen.logps, row["against"]: rejected.logps}
        found.pop("neutral", None)  # the base model's own answer, which the data set does not have
        record.setdefault(row["id"], {}).update(found)
    write_json(out / "logps.json", record)
