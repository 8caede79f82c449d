"""Train a LoRA adapter on preference pairs by Direct Preference Optimization (arXiv 2305.18290). The base is frozen.

The reference is the policy with its adapter switched off, or after the fine-tuning of an adapter a copy of that, so no
second model is loaded. Checkpoints are not among the stage's outputs. Their folder is named by a hash of inputs and
code, so a killed run resumes, and a changed run starts from the beginning. With `model.devices` above 1 the stage
starts a process per device (`stance.training.parallel`).
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
from stance.config.training import Train
from stance.machine.files import write_json
from stance.models.base import locate_tuned
from stance.models.loading import require_device
from stance.models.outline import adapted_layers, configuration, outline
from stance.training import parallel
from stance.training.checkpoints import checkpoint_key, last_complete
from stance.training.compilation import CompileCallback, worthwhile
from stance.training.dpo import (
    answers_only,
    beginning,
    checked_tokenizer,
    dpo_config,
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
from stance.training.joints import dpo_joint, reference_drift
from stance.training.progress import Progress, steps
from stance.training.retaining import RetainingTrainer
from stance.training.watchdog import WatchdogCallback

logger = logging.getLogger(__name__)


def prefer(
    model: Model, options: Train, seed: int, base: Path, pairs: Path, answered: Path, tuned: Path,
    adapter: Path, out: Path, checkpoints: Path,
) -> None:  # fmt: skip
    """Train on the pairs in a folder; arguments, files and errors are those of `tasks.train`."""
    require_device(model)
    folder = locate_tuned(base, tuned)
    adapted_layers(outline(configuration(folder)), options.target_modules)  # refuses what the merge could not change
    state = checkpoints / checkpoint_key(model, options, seed, base, pairs, tuned)
    rows = read_rows(pairs, options)
    tokenizer = checked_tokenizer(folder, base)
    require_no_control_tokens(rows, tokenizer, folder)
    logger.info("%d pairs; the first step follows once the model is loaded", len(rows))
    trainer = RetainingTrainer(
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        **beginning(dpo_config(model, options, seed, state), model, options, folder, tuned / "adapter"),
        callbacks=[Progress(out / "log.csv"), WatchdogCallback(out / "watchdog.json", options)],
    )
    if options.max_drift:
        untrained = read_untrained(answered, pairs, tokenizer, model.system_prompt)
        size = options.per_device_train_batch_size
        trainer.add_callback(EarlyStopCallback(untrained, options.max_drift, size, out))
    if worthwhile(model, options, len(rows)):
        trainer.add_callback(CompileCallback())
    trainer.remove_callback(PrinterCallback)
    trainer.retained = read_retained(pairs, options, tokenizer)
    require_all_pairs(trainer, options, len(rows))
    policy = cast(PeftModel, trainer.model)
    prepare_policy(policy, options.lora_dropout)
    began = time.monotonic()
    with answers_only():
        if options.precompute_ref_log_probs:
            precompute_reference(trainer)
        trainer.train(resume_from_checkpoint=last_complete(state))
    logger.info("trained in %.1f s, including the reference's log-probabilities", time.monotonic() - began)
    shrink_adapter(policy, options.adapter_scale)
    save_adapter(policy, adapter)
    reference = reference_drift(policy, tokenizer, pairs, tuned)
    dpo_joint(reference, steps(trainer.state)[0]).write(out / "joint.json")
    write_json(out / "metrics.json", steps(trainer.state)[-1] | last_drift(trainer.state))
    if parallel.rank() == 0:
        shutil.rmtree(state, ignore_errors=True)
