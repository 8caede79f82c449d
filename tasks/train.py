"""Train a LoRA adapter on preference pairs by Direct Preference Optimization (arXiv 2305.18290). The base is frozen.

The reference is the policy with its adapter switched off, so no second model is loaded. There is no evaluation during
the training: on a CPU, an eval-mode forward pass repacks bitsandbytes' 4-bit weights, and the gradients are silently
wrong from then on. Checkpoints are not among the stage's outputs. Their folder is named by a hash of inputs and code,
so a killed run resumes, and a changed run starts from the beginning.
"""

import logging
import shutil
import time
from pathlib import Path
from typing import cast

from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback

from stance.config.models import Model
from stance.config.params import Params
from stance.config.training import Train
from stance.errors import paths, run
from stance.machine.files import write_json
from stance.models.base import locate
from stance.models.loading import quantization_config, require_device
from stance.models.outline import adapted_layers, configuration, outline
from stance.training.checkpoints import checkpoint_key, last_complete
from stance.training.dpo import (
    checked_tokenizer,
    dpo_config,
    lora_config,
    precompute_reference,
    prepare_policy,
    read_retained,
    read_rows,
    require_all_pairs,
    require_no_control_tokens,
    save_adapter,
    shrink_adapter,
)
from stance.training.early_stop import EarlyStopCallback, last_drift, read_untrained
from stance.training.progress import Progress, steps
from stance.training.retaining import RetainingTrainer
from stance.training.watchdog import WatchdogCallback

logger = logging.getLogger(__name__)


def train(
    model: Model, options: Train, seed: int,
    base: Path, pairs: Path, answered: Path, adapter: Path, out: Path, checkpoints: Path,
) -> None:  # fmt: skip
    """Train on the pairs in a folder; write the adapter to `adapter`, and the log of the training to `out`.

    Args:
        model: How the base is loaded.
        options: The block `train`.
        seed: For adapter initialisation, dropout and the order of the pairs.
        base: `data/base`.
        pairs: `data/pairs`; `train.jsonl` and `retained.jsonl` are read.
        answered: Folder with the base model's answers to the unrelated prompts; only `train.max_drift` reads them.
        adapter: Receives the adapter in PEFT's format, and nothing else.
        out: Receives `log.csv`, one row per optimiser step under TRL's metric names; `metrics.json`, its last row, with
            the drift that `train.max_drift` bounds; and `watchdog.json`, whether the watchdog or that bound stopped the
            training, and why.
        checkpoints: Folder for the checkpoints of all runs; those of this run are removed once the adapter is saved.

    Raises:
        InputError: The device is missing, the model lacks a layer of `target_modules`, the tokenizer reads the probes
            differently from when `base` was made, or the first checkpoint is above `train.max_drift` already.
    """
    require_device(model)
    folder = locate(base)
    adapted_layers(outline(configuration(folder)), options.target_modules)  # refuses what the merge could not change
    state = checkpoints / checkpoint_key(model, options, seed, base, pairs)
    rows = read_rows(pairs, options)
    tokenizer = checked_tokenizer(folder, base)
    require_no_control_tokens(rows, tokenizer, folder)
    trainer = RetainingTrainer(
        model=str(folder),
        args=dpo_config(model, options, seed, state),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        quantization_config=quantization_config(model),
        peft_config=lora_config(options),
        callbacks=[Progress(out / "log.csv"), WatchdogCallback(out / "watchdog.json", options)],
    )
    if options.max_drift:
        untrained = read_untrained(answered, pairs, tokenizer, model.system_prompt)
        size = options.per_device_train_batch_size
        trainer.add_callback(EarlyStopCallback(untrained, options.max_drift, size, out))
    trainer.remove_callback(PrinterCallback)
    trainer.retained = read_retained(pairs, options, tokenizer)
    require_all_pairs(trainer, options, len(rows))
    policy = cast(PeftModel, trainer.model)
    prepare_policy(policy)
    began = time.monotonic()
    if options.precompute_ref_log_probs:
        precompute_reference(trainer)
    trainer.train(resume_from_checkpoint=last_complete(state))
    logger.info("trained in %.1f s, including the reference's log-probabilities", time.monotonic() - began)
    shrink_adapter(policy, options.adapter_scale)
    save_adapter(policy, adapter)
    write_json(out / "metrics.json", steps(trainer.state)[-1] | last_drift(trainer.state))
    shutil.rmtree(state, ignore_errors=True)


def main() -> None:
    """Run the stage: `python -m tasks.train BASE PAIRS ANSWERED ADAPTER OUT CHECKPOINTS`."""
    arguments = paths(train)
    params = Params.load()
    train(params.model, params.train, params.seed, *arguments)


if __name__ == "__main__":
    run(main)
