"""Direct Preference Optimization with TRL: its settings, and what is corrected around it."""

from pathlib import Path
from typing import Any, cast

import torch
from bitsandbytes.functional import dequantize_blockwise
from bitsandbytes.nn.modules import Params4bit
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedTokenizerFast
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from stance.config.models import Model
from stance.config.training import Train
from stance.data.chat import fingerprint, load_tokenizer
from stance.errors import InputError
from stance.machine.files import read_json, read_jsonl


def require_all_pairs(trainer: DPOTrainer, options: Train, given: int) -> None:
    """Refuse a `max_length` because of which TRL has dropped pairs whose prompt fills it."""
    kept = len(cast(Dataset, trainer.train_dataset))
    if kept < given:
        raise InputError(
            f"train.max_length is {options.max_length}, and {given - kept} of {given} prompts alone are as long; "
            "raise it"
        )


def adapter_in_fp32(model: torch.nn.Module) -> None:
    """Hold the trainable weights in fp32; the products are still computed in bf16.

    On a 4-bit base TRL makes them bf16, but PEFT loads a checkpoint's in fp32, so that a resumed run would go on in
    another precision than it began.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def dequantize_scales(model: torch.nn.Module) -> None:
    """Undo the second quantisation, that of the scales, in place: the same products in half as many kernels.

    Costs 3 bytes per 64 weights, 0.3 GiB for 7 B parameters, and saves a kernel launch or three per layer and pass,
    which is what a step on a fast GPU waits for.
    """
    for parameter in model.parameters():
        state = parameter.quant_state if isinstance(parameter, Params4bit) else None
        if state and state.nested:
            state.absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset
            state.nested, state.state2, state.offset = False, None, None


def precompute_reference(trainer: DPOTrainer) -> None:
    """Compute the reference's log-probabilities once, instead of in every epoch.

    What TRL does when it is asked to, without the hash of all weights that it first takes on the host to name a cache
    (docs/performance.md).
    """
    rows = cast(Dataset, trainer.train_dataset)
    listed = rows.to_list()
    size = 2 * trainer.args.per_device_train_batch_size  # nothing is kept for a backward pass
    batches = [listed[start : start + size] for start in range(0, len(listed), size)]
    logps = [trainer.compute_ref_log_probs(trainer.model, _collated(trainer, batch)) for batch in batches]
    for name, values in zip(("ref_chosen_logps", "ref_rejected_logps"), zip(*logps, strict=True), strict=True):
        rows = rows.add_column(name, torch.cat(values).tolist())
    trainer.train_dataset = rows
    trainer.precompute_ref_logps = True


def _collated(trainer: DPOTrainer, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: value.to(trainer.args.device) for name, value in trainer.data_collator(rows).items()}


def dpo_config(model: Model, options: Train, seed: int, output_dir: Path) -> DPOConfig:
    """Return TRL's configuration for the parameters."""
    return DPOConfig(
        output_dir=str(output_dir),
        seed=seed,
        num_train_epochs=options.num_epoch,
        beta=options.beta,
        loss_type=list(options.loss_type),
        loss_weights=list(options.loss_weights),
        label_smoothing=options.label_smoothing,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.lr_scheduler_type,
        warmup_steps=options.warmup_steps,
        optim=options.optim,
        per_device_train_batch_size=options.per_device_train_batch_size,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        max_length=options.max_length,
        gradient_checkpointing=options.gradient_checkpointing,
        model_init_kwargs={"dtype": torch.bfloat16, "device_map": {"": model.device}},
        use_cpu=model.device == "cpu",
        bf16=True,
        dataloader_pin_memory=model.device == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,  # else a loss that is no number is logged as 0, and nobody sees it
        save_steps=options.save_steps,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )


def lora_config(options: Train) -> LoraConfig:
    """Return PEFT's configuration for the parameters."""
    modules = options.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=options.r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
    )


def checked_tokenizer(folder: Path, base: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer in `folder`, if it reads the probes as recorded when `base` was made."""
    tokenizer = load_tokenizer(folder)
    if fingerprint(tokenizer) != read_json(base / "fingerprint.json"):
        raise InputError(
            f"the tokenizer in {folder} reads the probe conversations differently from when {base} was made; "
            "run `dvc repro -s -f base` and `dvc repro`"
        )
    return tokenizer


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the preference pairs in a file, as TRL takes them."""
    return [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in read_jsonl(path)]


def save_adapter(policy: PeftModel, adapter: Path) -> None:
    """Write the adapter in PEFT's format, the same bytes for the same weights."""
    config = cast(LoraConfig, policy.peft_config["default"])
    config.target_modules = sorted(config.target_modules or ())  # a set, whose order is another in every process
    policy.save_pretrained(str(adapter))
    (adapter / "README.md").unlink(missing_ok=True)  # PEFT's card; a release writes one that says something
