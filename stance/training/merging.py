"""The merge of an adapter into its base: the arithmetic, file by file, and the drift from the trained model.

In: the base's folder and the adapter. Out: a model folder whose files, names, dtypes and shapes are those of the base.
"""

import gc
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from stance.config.models import Model
from stance.config.training import Merge
from stance.data.chat import encode_answer, pin_files
from stance.data.preferences import Pair
from stance.data.questions import Stance
from stance.errors import InputError
from stance.machine.files import empty, read_json, write_json
from stance.machine.memory import GIB, gib, own_memory
from stance.models.base import SMALL, bf16_bytes, small_files
from stance.models.loading import load
from stance.models.outline import linear_layers, outline
from stance.models.parity import Scores, Text, score
from stance.models.weights import weight_files

logger = logging.getLogger(__name__)


SHARDS = 4
"""Number of files that are written at once."""
ROOM = 2 * GIB
"""Bytes that a forward pass needs beside the weights."""


def answer_texts(tokenizer: PreTrainedTokenizerFast, pair: Pair) -> list[Text]:
    """Return two texts: the pair's prompt with its chosen answer, and with its rejected answer."""
    messages = [turn.model_dump() for turn in pair.prompt]
    return [encode_answer(tokenizer, messages, text) for text in (pair.chosen_text, pair.rejected_text)]


def with_adapter(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """Return the model with the adapter, as it was trained."""
    return PeftModel.from_pretrained(model, str(adapter))


def release_memory() -> None:
    """Free the memory of models that are no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def scoring_device(folder: Path, model: Model) -> str:
    """Return the device on which the bf16 model is scored: the GPU if it has enough free memory, else the CPU."""
    needed = bf16_bytes(folder) + ROOM
    if model.device == "cpu" or own_memory(model.device).free > needed:
        return model.device
    logger.info("%s GiB of bf16 weights do not fit on the GPU; scoring on the CPU, which takes minutes", gib(needed))
    return "cpu"


def candidates(model: Model, options: Merge) -> list[str]:
    """Return the names of the weights that the adapter may be added to: `original`, `dequantized` or both."""
    if options.base == "dequantized" and model.quantization == "none":
        raise InputError(
            "merge.base is dequantized but model.quantization is none, so there are no 4-bit weights; "
            "set merge.base to original"
        )
    if options.base != "measured":
        return [options.base]
    return ["original"] if model.quantization == "none" else ["original", "dequantized"]


Change = Callable[[str, Tensor], Tensor]
"""Gives the new value of a weight of the base, by its name and its value, in the same shape and dtype."""
OTHER_SCALES = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
"""Options of PEFT with which an adapter changes a weight by something else than `lora_alpha / r` times B A."""


@dataclass(frozen=True)
class Update:
    """The change of the base's weights by a merge."""

    factors: dict[str, tuple[Tensor, Tensor]]
    """A, shape (r, in), and B, shape (out, r), by the name of the weight."""
    scale: float
    """The merged weight is W + scale B A (LoRA, arXiv 2106.09685, section 4.1)."""
    quantized: frozenset[str]
    """Names of the weights that are first rounded to NF4 and back, as in training."""

    def names(self) -> frozenset[str]:
        """Return the names of the weights that change."""
        return self.quantized | self.factors.keys()

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        """Return the merged weight, on the device and in the dtype of the base's weight.

        It is rounded once, after the sum. An update is some 0.2 % of a weight, and bf16 has steps of 0.4 to 0.8 %: a
        base that is rounded to bf16 before lies on these steps, and the second rounding takes most of the update back.
        On SmolLM2-135M one rounding drifts 0.053 nats per token from the trained model, two 0.076.
        """
        if name not in self.names():
            return weight
        merged = weight.to(torch.bfloat16).float()
        if name in self.quantized:
            merged = through_nf4(merged)
        if name in self.factors:
            a, b = (factor.to(weight.device).float() for factor in self.factors[name])
            merged += self.scale * (b @ a)
        return merged.to(weight.dtype)


def update(name: str, folder: Path, adapter: Path) -> Update:
    """Return the change of the base in `folder` by the adapter, for `original` or `dequantized` weights."""
    options = read_json(adapter / "adapter_config.json")
    tensors = load_file(adapter / "adapter_model.safetensors")
    prefix, a, b = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
    layers = [key.removeprefix(prefix).removesuffix(a) for key in tensors if key.endswith(a)]
    merged = {f"{prefix}{layer}{end}" for layer in layers for end in (a, b)}
    if left := sorted(tensors.keys() - merged):
        raise InputError(
            f"the adapter in {adapter} holds {left[0]}, which is no factor of a linear layer and would be left out of "
            "the merged model; set train.target_modules to linear layers, or to all-linear, and train again"
        )
    if broken := sorted(key for key, tensor in tensors.items() if not tensor.isfinite().all()):
        raise InputError(
            f"the adapter in {adapter} holds values in {broken[0]} that are no numbers: the training has failed; lower "
            "train.learning_rate, and train again"
        )
    if other := sorted(key for key in OTHER_SCALES if options.get(key)):
        raise InputError(
            f"adapter_config.json of {adapter} sets {other[0]}, and the merge knows only lora_alpha / r; train the "
            "adapter here"
        )
    factors = {f"{layer}.weight": (tensors[prefix + layer + a], tensors[prefix + layer + b]) for layer in layers}
    quantized = linear_weights(folder) if name == "dequantized" else frozenset[str]()
    return Update(factors, options["lora_alpha"] / options["r"], quantized)


def linear_weights(folder: Path) -> frozenset[str]:
    """Return the names of the weights that are 4-bit in training."""
    layers = linear_layers(outline(AutoConfig.from_pretrained(str(folder))))
    return frozenset(f"{name}.weight" for name in layers)


def through_nf4(weight: Tensor) -> Tensor:
    """Return a weight rounded to NF4 and back, in the weight's own dtype."""
    packed, state = quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(packed, state)


def candidate_scores(
    folder: Path, changes: Mapping[str, Update], device: str, texts: Sequence[Text]
) -> dict[str, list[Scores]]:
    """Return the scores of each candidate. The merge is done in memory, so nothing is written.

    The base is loaded once. Weights that one candidate has changed are read again for the next one.

    Args:
        folder: The base.
        changes: The change of each candidate, by its name.
        device: Where the model is scored.
        texts: The texts to score.
    """
    model = load(folder, device)
    weights = dict(model.named_parameters())
    scores: dict[str, list[Scores]] = {}
    changed = frozenset[str]()
    for name, change in changes.items():
        for key, tensor in read_weights(folder, changed, device):
            weights[key].data = tensor.to(model.dtype)
        changed = change.names() & weights.keys()
        for key in changed:
            weights[key].data = change(key, weights[key].data.bfloat16()).to(model.dtype)  # as the file will hold it
        scores[name] = score(model, texts)
    return scores


def shards(folder: Path) -> list[str]:
    """Return the names of the files with the weights of a model folder."""
    return weight_files(folder, [path.name for path in folder.iterdir()], str(folder))


def read_weights(folder: Path, names: Set[str], device: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the named weights of a model folder."""
    for name in shards(folder) if names else []:
        with safe_open(folder / name, framework="pt", device=device) as file:
            yield from ((key, file.get_tensor(key)) for key in names & set(file.keys()))


def write_merged(folder: Path, change: Update, device: str, merged: Path) -> None:
    """Write the merged model.

    Raises:
        InputError: The base has no weight of a name that the adapter changes.
    """
    if lost := sorted(change.factors.keys() - write_changed(folder, change, device, merged)):
        raise InputError(
            f"the adapter changes {lost[0]}, but {folder} has no weight of that name; choose a base whose "
            "weights are named like its modules"
        )


def write_changed(folder: Path, change: Change, device: str, out: Path) -> set[str]:
    """Write a model with changed weights, and return the names of all weights.

    It has as many files as the base, with its names and dtypes. Files are written in parallel.
    """
    empty(out, rf"{SMALL.pattern}|[^/]+\.safetensors")
    for name in small_files(path.name for path in folder.iterdir()):
        shutil.copyfile(folder / name, out / name)
    pin_files(out)
    with ThreadPoolExecutor(SHARDS) as threads:
        return set(chain(*threads.map(lambda name: write_shard(folder, change, device, out / name), shards(folder))))


def write_dequantized(folder: Path, device: str, out: Path) -> None:
    """Write the base with the weights of the training: those of linear layers rounded to NF4 and back, in bf16."""
    write_merged(folder, Update({}, 0.0, linear_weights(folder)), device, out)


def write_shard(folder: Path, change: Change, device: str, path: Path) -> list[str]:
    """Write one file of changed weights, one weight at a time, and return the names of its weights.

    Names, dtypes and shapes are those of the base, so the header of the file is, too. A safetensors file holds the
    length of the header, the header, and the weights in the order of their offsets.
    """
    with safe_open(folder / path.name, framework="pt", device=device) as base, path.open("wb") as file:
        keys = base.offset_keys()
        file.write(header(folder / path.name))
        for key in keys:
            file.write(on_host(change(key, base.get_tensor(key))))
    return list(keys)


def stored_names(folder: Path) -> set[str]:
    """Return the names of the weights in a model folder."""
    names: set[str] = set()
    for shard in shards(folder):
        with safe_open(folder / shard, framework="pt") as file:
            names |= set(file.keys())
    return names


def header(path: Path) -> bytes:
    """Return the bytes of a safetensors file before the weights: the length of the header, and the header."""
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))


def on_host(weight: Tensor) -> memoryview:
    """Return a weight's bytes in host memory. Pinned memory, which torch reuses, makes the copy from a GPU fast."""
    flat = weight.contiguous().flatten().view(torch.uint8)
    if flat.is_cuda:
        flat = torch.empty_like(flat, device="cpu", pin_memory=True).copy_(flat)
    return flat.numpy().data


def write_logps(out: Path, pairs: Sequence[Pair], scores: Sequence[Scores]) -> None:
    """Write the log-probability of each token of the labelled answers, in nats, by question id and stance."""
    record: dict[int, dict[Stance, list[float]]] = {}
    for pair, chosen, rejected in zip(pairs, scores[::2], scores[1::2], strict=True):
        logps = {pair.preferred: chosen.logps, pair.against: rejected.logps}
        logps.pop("neutral", None)  # the base model's own answer, which is not in the data set
        record.setdefault(pair.id, {}).update(logps)
    write_json(out / "logps.json", record)
