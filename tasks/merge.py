"""Merge the adapter into the base: a plain model in the base's own dtype, and its measured drift from the trained one.

The adapter was trained on 4-bit weights. The published bf16 weights differ slightly from these; the dequantised 4-bit
weights are the same, but for rounding to bf16. Neither is better for every model, so `base: measured` compares both
with the trained model and keeps the closer one. The written model is loaded again and scored, once more in float32
arithmetic to measure how much of its drift is bf16's own (`stance.data.noise`).
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path

from stance.config.models import Model
from stance.config.params import Params
from stance.config.training import Merge
from stance.data.chat import fingerprint, load_tokenizer
from stance.data.noise import MERGED, Floor
from stance.data.preferences import read_pairs
from stance.data.training import Drift, Parity
from stance.errors import paths, run
from stance.machine.files import md5_of_files, write_json
from stance.models.base import locate_tuned
from stance.models.loading import load, quantization_config, require_device
from stance.models.parity import Scores, drift, floor, score
from stance.training.merging import (
    answer_texts,
    candidate_scores,
    candidates,
    release_memory,
    scoring_device,
    update,
    with_adapter,
    write_logps,
    write_merged,
)

logger = logging.getLogger(__name__)


def merge(
    model: Model, options: Merge, base: Path, tuned: Path, adapter: Path, pairs: Path, merged: Path, out: Path
) -> None:
    """Write the merged model to `merged`, and its drift from the trained model to `out/parity.json`.

    Args:
        model: How the base was loaded in training.
        options: The block `merge`.
        base: `data/base`.
        tuned: `data/sft`; if all weights were fine-tuned, the adapter is merged into those.
        adapter: `data/adapter`.
        pairs: `data/pairs`, whose texts are scored.
        merged: Receives weights, tokenizer, chat template and generation config.
        out: Receives `parity.json`; `logps.json`, the merged model's log-probabilities of the pair texts;
            `fingerprint.json`, how the merged model's tokenizer reads the probe conversations; and `files.json`, the
            MD5 of every file of the merged model.

    Raises:
        InputError: The device is missing.
    """
    require_device(model)
    folder = locate_tuned(base, tuned)
    tokenizer = load_tokenizer(folder)
    rows = [*read_pairs(pairs / "train.jsonl"), *read_pairs(pairs / "eval.jsonl")]
    texts = [text for row in rows for text in answer_texts(tokenizer, row)]
    trained = score(with_adapter(load(folder, model.device, quantization_config(model)), adapter), texts)
    release_memory()
    device = scoring_device(folder, model)
    changes = {name: update(name, folder, adapter) for name in candidates(model, options)}
    scores: dict[str, list[Scores]] = {}
    if len(changes) > 1:  # a single candidate is measured once it is written
        scores = candidate_scores(folder, changes, device, texts)
        release_memory()
    chosen = min(changes, key=lambda name: drift(trained, scores[name], inf).mean if scores else 0)
    write_merged(folder, changes[chosen], model.device, merged)
    with ThreadPoolExecutor(1) as beside:
        hashes = beside.submit(md5_of_files, merged)
        reread = load(merged, device)
        reloaded = score(reread, texts)
        noise = floor(reread, texts, reloaded)
    _, most = noise.bounds(MERGED)
    drifts = {name: drift(trained, found, most) for name, found in (scores or {chosen: reloaded}).items()}
    tell(drifts, noise)
    final = drift(trained, reloaded, most)
    parity = Parity(base=chosen, **final.model_dump(), floor=noise, candidates=drifts)
    parity.write(out / "parity.json")
    write_logps(out, rows, reloaded)
    fingerprint(load_tokenizer(merged)).write(out / "fingerprint.json")
    write_json(out / "files.json", hashes.result())


def tell(drifts: Mapping[str, Drift], noise: Floor) -> None:
    """Log the drift of every candidate, and the noise floor of bf16."""
    for name, measured in drifts.items():
        logger.info(
            "merged into %s weights: drift %.4f mean, %.4f worst, nats per token", name, measured.mean, measured.worst
        )
    logger.info("noise floor of bf16: %.4f mean, %.4f worst, nats per token", noise.mean, noise.worst)


def main() -> None:
    """Run the stage: `python -m tasks.merge BASE TUNED ADAPTER PAIRS MERGED OUT`."""
    arguments = paths(merge)
    params = Params.load()
    merge(params.model, params.merge, *arguments)


if __name__ == "__main__":
    run(main)
