"""Preference pairs to a LoRA adapter, by Direct Preference Optimization (arXiv 2305.18290) on a frozen base.

The reference is the policy with its adapter switched off, so no second model is loaded. There is no evaluation in
between: on a CPU an eval-mode forward repacks bitsandbytes' 4-bit weights, after which gradients are silently wrong.
Checkpoints lie outside the stage's outputs, in a folder named by a hash of its inputs and its code: a killed run
resumes, a changed one starts afresh.
"""

import csv
import hashlib
import logging
import shutil
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from bitsandbytes.functional import dequantize_blockwise
from bitsandbytes.nn.modules import Params4bit
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import (
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from tasks.chat import fingerprint, load_tokenizer
from tasks.errors import InputError, run
from tasks.jsonfile import read_json, read_jsonl, write_json
from tasks.model import quantization_config, require_device
from tasks.params import Model, Params, Train
from tasks.watchdog import Watchdog
from tasks.weights import locate

logger = logging.getLogger(__name__)


def train(
    model: Model, options: Train, seed: int, base: Path, pairs: Path, adapter: Path, out: Path, checkpoints: Path
) -> None:
    """Train on `pairs/train.jsonl`; write the adapter to `adapter` and the course of training to `out`.

    Args:
        model: How the base is loaded.
        options: The block `train`.
        seed: For adapter initialisation, dropout and the order of the pairs.
        base: `data/base`.
        pairs: `data/pairs`.
        adapter: Receives the adapter in PEFT's format, and nothing else.
        out: Receives `log.csv`, one row per optimiser step under TRL's metric names; `metrics.json`, its last row; and
            `watchdog.json`, whether the training was stopped, and why.
        checkpoints: Folder of resumable states; this run's is removed once the adapter is saved.

    Raises:
        InputError: The device is missing, or the tokenizer reads the probes differently from when `base` was made.
    """
    require_device(model)
    folder = locate(base)
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew, 0.1 s, for every length of a batch
    state = checkpoints / _key(model, options, seed, base, pairs)
    rows = _read(pairs / "train.jsonl")
    trainer = DPOTrainer(
        model=str(folder),
        args=dpo_config(model, options, seed, state),
        train_dataset=Dataset.from_list(rows),
        processing_class=_tokenizer(folder, base),
        quantization_config=quantization_config(model),
        peft_config=lora_config(options),
        callbacks=[
            Progress(out / "log.csv"),
            Watchdog(out / "watchdog.json", options.max_chosen_fall, options.max_margin),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    require_all_pairs(trainer, options, len(rows))
    policy = cast(PeftModel, trainer.model)
    adapter_in_fp32(policy)
    dequantize_scales(policy)
    cast(Any, policy).num_parameters = cache(policy.num_parameters)  # the trainer asks in every step, for 10 ms
    began = time.monotonic()
    if options.precompute_ref_log_probs:
        precompute_reference(trainer)
    trainer.train(resume_from_checkpoint=last_complete(state))
    logger.info("trained in %.1f s, the reference's log-probabilities included", time.monotonic() - began)
    _save_adapter(policy, adapter)
    write_json(out / "metrics.json", steps(trainer.state)[-1])
    shutil.rmtree(state, ignore_errors=True)


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


def last_complete(folder: Path) -> str | None:
    """Return the newest checkpoint in `folder` whose writing was finished, or None.

    `trainer_state.json` is written last, so a checkpoint without a readable one was cut off by whatever ended the run.
    """
    steps = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((str(step) for step in steps if _is_json(step / "trainer_state.json")), None)


class Progress(TrainerCallback):
    """Logs each optimiser step with the time that is left, and keeps `log.csv` up to date.

    The rows come from the trainer's own history, which a checkpoint carries: a resumed run has them all.
    """

    def __init__(self, path: Path) -> None:
        """Keep the log of the training in the CSV file `path`."""
        self.path = path
        self.began = 0.0
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Start the clock, and the log with what a checkpoint remembers."""
        self.began, self.first_step = time.monotonic(), state.global_step
        self.path.unlink(missing_ok=True)
        _append_csv(self.path, steps(state))
        if state.global_step:
            logger.info("resuming at step %d of %d", state.global_step, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Write no checkpoint of a training that is over; its adapter is saved next."""
        control.should_save = control.should_save and state.global_step < state.max_steps

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Add the step to the log and say how far the training is; the trainer's closing summary is no step."""
        if "loss" not in state.log_history[-1]:
            return
        row = _step(state.log_history[-1])
        _append_csv(self.path, [row])
        if done := state.global_step - self.first_step:
            left = (time.monotonic() - self.began) / done * (state.max_steps - state.global_step)
            logger.info(
                "step %d/%d  loss %.4f  margin %.3f  %.0f s left",
                state.global_step, state.max_steps, row["loss"], row["rewards/margins"], left,
            )  # fmt: skip


def steps(state: TrainerState) -> list[dict[str, float]]:
    """Return the logged optimiser steps; the trainer's closing summary is not one."""
    return [_step(row) for row in state.log_history if "loss" in row]


def _step(row: dict[str, float]) -> dict[str, float]:
    # Without what TRL counts from the last resumption on.
    return {key: row[key] for key in sorted(row) if key != "num_tokens"}


def _key(model: Model, options: Train, seed: int, base: Path, pairs: Path) -> str:
    inputs = [model.model_dump_json(), options.model_dump_json(), str(seed)]
    code = Path(__file__)
    sources = (base / "base.json", pairs / "train.jsonl", code, code.with_name("watchdog.py"))
    inputs += [path.read_text(encoding="utf-8") for path in sources]
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]


def _tokenizer(folder: Path, base: Path) -> PreTrainedTokenizerFast:
    tokenizer = load_tokenizer(folder)
    if fingerprint(tokenizer) != read_json(base / "fingerprint.json"):
        raise InputError(
            f"the tokenizer in {folder} reads the probe conversations differently from when {base} was made; "
            "run `dvc repro -s -f base` and `dvc repro`"
        )
    return tokenizer


def _read(path: Path) -> list[dict[str, Any]]:
    return [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in read_jsonl(path)]


def _save_adapter(policy: PeftModel, adapter: Path) -> None:
    config = cast(LoraConfig, policy.peft_config["default"])
    config.target_modules = sorted(config.target_modules or ())  # a set, whose order is another in every process
    policy.save_pretrained(str(adapter))
    (adapter / "README.md").unlink(missing_ok=True)  # PEFT's card; a release writes one that says something


def _append_csv(path: Path, rows: list[dict[str, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        for row in rows:
            writer = csv.DictWriter(file, ["step", *sorted(row.keys() - {"step"})], lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)


def _is_json(path: Path) -> bool:
    try:
        read_json(path)
    except (FileNotFoundError, ValueError):
        return False
    return True


def main() -> None:
    """Run the stage: `python -m tasks.train BASE PAIRS ADAPTER OUT CHECKPOINTS`."""
    params = Params.load()
    train(params.model, params.train, params.seed, *map(Path, sys.argv[1:]))


if __name__ == "__main__":
    run(main)
