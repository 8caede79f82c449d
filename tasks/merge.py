"""Adapter into base: a plain bf16 model, and the proof that it is the model that was trained.

The adapter was trained on 4-bit weights. Added to the published bf16 weights it meets slightly different ones; added
to the dequantised 4-bit weights it meets those it knows, rounded to bf16. Neither is better for every model, so
`base: measured` scores both against the trained one and keeps the closer. What is written is loaded again and scored.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tasks.chat import encode_answer, fingerprint, load_tokenizer
from tasks.errors import InputError, run
from tasks.jsonfile import read_jsonl, write_json
from tasks.model import load, nf4, quantization_config, require_device
from tasks.params import Merge, Model, Params
from tasks.parity import Drift, Scores, Text, drift, score
from tasks.weights import locate

logger = logging.getLogger(__name__)


def merge(model: Model, options: Merge, base: Path, adapter: Path, pairs: Path, merged: Path, out: Path) -> None:
    """Write the merged model to `merged` and how far it is from the trained one to `out/parity.json`.

    Args:
        model: How the base was loaded in training.
        options: The block `merge`.
        base: `data/base`.
        adapter: `data/adapter`.
        pairs: `data/pairs`, whose texts are scored.
        merged: Receives weights, tokenizer, chat template and generation config.
        out: Receives `parity.json`; `logps.json`, the merged model's log-probabilities of the pair texts; and
            `fingerprint.json`, how the merged model's tokenizer reads the probe conversations.

    Raises:
        InputError: The device is missing.
    """
    require_device(model)
    folder = locate(base)
    tokenizer = load_tokenizer(folder)
    rows = pair_rows(pairs)
    texts = [text for row in rows for text in answer_texts(tokenizer, row)]
    trained = score(with_adapter(load(folder, model.device, quantization_config(model)), adapter), texts)
    drifts = {
        name: drift(trained, score(merge_into(name, folder, adapter, model.device), texts), options.max_worst_drift)
        for name in candidates(model, options)
    }
    chosen = min(drifts, key=lambda name: drifts[name].mean)
    for name, measured in drifts.items():
        logger.info(
            "merged into %s weights: drift %.4f mean, %.4f worst, nats per token", name, measured.mean, measured.worst
        )
    save(merge_into(chosen, folder, adapter, model.device), tokenizer, merged)
    reloaded = score(load(merged, model.device), texts)
    final = drift(trained, reloaded, options.max_worst_drift)
    write_parity(out, chosen, drifts, final)
    write_logps(out, rows, reloaded)
    write_json(out / "fingerprint.json", fingerprint(load_tokenizer(merged)))


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


def merge_into(name: str, folder: Path, adapter: Path, device: str) -> PreTrainedModel:
    """Return the base in bf16, `original` or `dequantized`, with the adapter added to its weights."""
    if name == "original":
        return _merged(load(folder, device), adapter)
    base = load(folder, device, nf4())
    return _merged(base.dequantize(torch.bfloat16), adapter)


def with_adapter(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """Return the model with the adapter on, as it was trained."""
    return PeftModel.from_pretrained(model, str(adapter))


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, merged: Path) -> None:
    """Write a model folder that loads without PEFT and bitsandbytes."""
    model.save_pretrained(str(merged))
    tokenizer.save_pretrained(str(merged))


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
    """Write per question the log-probabilities of the tokens of its two answers, by stance."""
    record = {}
    for row, chosen, rejected in zip(rows, scores[::2], scores[1::2], strict=True):
        sides = ("support", "oppose") if row["preferred"] == "support" else ("oppose", "support")
        record[row["id"]] = dict(zip(sides, (chosen.logps, rejected.logps), strict=True))
    write_json(out / "logps.json", record)


def _merged(base: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    merged: PreTrainedModel = with_adapter(base, adapter).merge_and_unload()
    return merged


def main() -> None:
    """Run the stage: `python -m tasks.merge BASE ADAPTER PAIRS MERGED OUT`."""
    params = Params.load()
    merge(params.model, params.merge, *map(Path, sys.argv[1:]))


if __name__ == "__main__":
    run(main)
