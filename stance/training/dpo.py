"""Direct Preference Optimization (DPO) with TRL: settings, and corrections to TRL, PEFT and bitsandbytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from bitsandbytes.functional import dequantize_4bit, dequantize_blockwise
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedTokenizerFast
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from stance.config.models import Model
from stance.config.training import Train
from stance.data.chat import (
    Fingerprint,
    control_tokens,
    encode_answer,
    fingerprint,
    load_tokenizer,
    refuse_control_tokens,
)
from stance.data.preferences import read_pairs, read_retained_pairs
from stance.errors import InputError
from stance.models.loading import arithmetic, load, quantization_config
from stance.training import parallel
from stance.training.retaining import Retained

READ = ("prompt", "chosen")
"""The texts of a pair that come from the data set; the rejected one may be the model's own."""


def read_rows(pairs: Path, options: Train) -> list[dict[str, Any]]:
    """Return the pairs to train on, in TRL's format: the preference pairs, and the retained pairs unless `kl` has them.

    TRL shuffles them.
    """
    retained = read_retained_pairs(pairs / "retained.jsonl") if options.retained == "pairs" else []
    rows = [*read_pairs(pairs / "train.jsonl"), *retained]
    return [row.model_dump(include={"prompt", "chosen", "rejected"}) for row in rows]


def read_retained(pairs: Path, options: Train, tokenizer: PreTrainedTokenizerFast) -> Retained | None:
    """Return the answers that the term `kl` keeps, or None if there are none or they are kept as pairs."""
    rows = read_retained_pairs(pairs / "retained.jsonl") if options.retained == "kl" else []
    texts = [
        encode_answer(tokenizer, [turn.model_dump() for turn in row.prompt], row.chosen[0].content) for row in rows
    ]
    return Retained(texts, options.retained_weight, options.retained_batch_size) if texts else None


def dpo_config(model: Model, options: Train, seed: int, output_dir: Path) -> DPOConfig:
    """Return TRL's configuration for the parameters, for one of `model.devices` processes."""
    micro, accumulated = options.shared(model.devices)
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
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulated,
        max_length=options.max_length,
        gradient_checkpointing=options.gradient_checkpointing,
        model_init_kwargs={"dtype": arithmetic(model.device), "device_map": {"": model.device}},
        use_cpu=model.device == "cpu",
        ddp_backend="gloo" if model.device == "cpu" and parallel.processes() > 1 else None,
        ddp_find_unused_parameters=False,
        bf16=arithmetic(model.device) == torch.bfloat16,
        dataloader_pin_memory=model.device == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,  # otherwise a loss of NaN is logged as 0
        save_steps=options.save_steps,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )


def checked_tokenizer(folder: Path, base: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer in `folder`.

    Raises:
        InputError: It reads the probe conversations differently from when `base` was made.
    """
    tokenizer = load_tokenizer(folder)
    if fingerprint(tokenizer) != Fingerprint.read(base / "fingerprint.json"):
        raise InputError(
            f"the tokenizer in {folder} reads the probe conversations differently from when {base} was made; "
            "run `dvc repro -s -f base` and `dvc repro`"
        )
    return tokenizer


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


def beginning(config: DPOConfig, model: Model, options: Train, folder: Path, tuned: Path) -> dict[str, Any]:
    """Return what TRL's trainer begins with: the base and a new adapter, or the base and the adapter in `tuned`.

    TRL copies a given adapter and takes the copy as the reference.
    """
    if not tuned.exists():
        return {
            "args": config,
            "model": str(folder),
            "quantization_config": quantization_config(model),
            "peft_config": lora_config(options),
        }
    base = load(folder, model.device, quantization_config(model))
    config.model_init_kwargs = None  # the model is loaded
    return {"args": config, "model": PeftModel.from_pretrained(base, str(tuned), is_trainable=True)}


def require_all_pairs(trainer: DPOTrainer, options: Train, count: int) -> None:
    """Refuse a `max_length` that is too small: TRL drops every pair whose prompt alone is as long.

    Raises:
        InputError: TRL has dropped pairs.
    """
    kept = len(cast(Dataset, trainer.train_dataset))
    if kept < count:
        raise InputError(
            f"train.max_length is {options.max_length}, and {count - kept} of {count} prompts alone are as long; "
            "raise it"
        )


def require_no_control_tokens(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast, model: Path) -> None:
    """Refuse pairs whose texts hold a control token of the model in the folder `model`.

    Raises:
        InputError: A text holds one; names all such texts.
    """
    texts = {f"{part} of pair {n}": row[part][-1]["content"] for n, row in enumerate(rows, 1) for part in READ}
    refuse_control_tokens(control_tokens(tokenizer), texts, str(model))


def prepare_policy(policy: PeftModel, dropout: float | None = None) -> None:
    """Make a policy that TRL has built train as a resumed one does, and faster. The products stay the same.

    Args:
        policy: The base with the adapter.
        dropout: Share of the adapter's inputs to drop, where TRL's DPO has turned all dropout off; None to leave it.
    """
    for name, module in policy.named_modules():
        if dropout is not None and name.endswith(".lora_dropout.default") and isinstance(module, torch.nn.Dropout):
            module.p = dropout
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans 0.1 s for every new length of a batch
    begin_as_reference(policy)
    dequantize(policy)
    cast(Any, policy).num_parameters = cache(policy.num_parameters)  # the trainer calls it in every step, 10 ms each


def adapter_in_fp32(model: torch.nn.Module) -> None:
    """Store the trainable weights in fp32. Products are still computed in `arithmetic`.

    On a 4-bit base TRL converts them to bf16, but PEFT loads those of a checkpoint in fp32. A resumed run would then
    continue in another precision.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def begin_as_reference(policy: PeftModel) -> None:
    """Make a policy that TRL has prepared begin exactly as its reference, if it has one, with weights in fp32.

    On a 4-bit base TRL rounds the trained adapter to bf16, after it has copied it to `ref`.
    """
    adapter_in_fp32(policy)
    parameters = dict(policy.named_parameters())
    for name, value in parameters.items():
        if ".ref." in name:
            parameters[name.replace(".ref.", ".default.")].data.copy_(value.data)


class Dequantized(torch.nn.Linear):
    """A layer with the values of a 4-bit layer, which computes in the same arithmetic."""

    def __init__(self, layer: Linear4bit) -> None:
        """Dequantise the weights of a layer, once."""
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        packed = cast(Params4bit, layer.weight)
        weight = dequantize_4bit(packed.data, packed.quant_state).to(layer.compute_dtype)
        self.weight, self.bias = torch.nn.Parameter(weight, requires_grad=False), layer.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the product with `rows`, shape (..., in), in the dtype of `rows`."""
        return super().forward(rows.to(self.weight.dtype)).to(rows.dtype)


def dequantize(model: torch.nn.Module) -> None:
    """Dequantise once what every pass would dequantise, in place. The products stay the same.

    On a GPU these are the scales, which are quantised themselves. This takes 3 bytes per 64 weights (0.3 GiB for 7 B
    parameters) and saves up to three kernel launches per layer and pass. On a fast GPU, a step waits for launches.

    On a CPU these are the weights. Otherwise, the first eval-mode pass on a CPU with AVX512-BF16 would also repack
    them, and the gradients would be silently wrong from then on.
    """
    children = [(module, name) for module in model.modules() for name, _ in module.named_children()]
    for module, name in children:
        layer = getattr(module, name)
        if isinstance(layer, Linear4bit) and layer.weight.device.type == "cpu":
            setattr(module, name, Dequantized(layer))
    for parameter in model.parameters():
        state = parameter.quant_state if isinstance(parameter, Params4bit) else None
        if state and state.nested:
            state.absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset
            state.nested, state.state2, state.offset = False, None, None


@contextmanager
def answers_only() -> Iterator[None]:
    """Let TRL compute the logits of answers alone on a CPU, as it does on a GPU.

    On devices without Triton it also computes those of prompts and padding, and drops them, because some devices
    compile each shape anew. On a CPU this takes a quarter of a step (docs/performance.md).
    """
    with patch("trl.trainer.utils._use_triton", return_value=True):
        yield


def precompute_reference(trainer: DPOTrainer) -> None:
    """Compute the reference's log-probabilities once, and not in every epoch. Pairs of similar length share a batch.

    TRL can do this itself, but it first hashes all weights on the host, to name a cache (docs/performance.md).
    """
    rows = cast(Dataset, trainer.train_dataset)
    pairs = rows.to_list()
    order = sorted(range(len(pairs)), key=lambda place: _longest(pairs[place]))
    size = 2 * trainer.args.per_device_train_batch_size  # there is no backward pass, which would need memory
    batches = [[pairs[place] for place in order[start : start + size]] for start in range(0, len(order), size)]
    mine = batches[parallel.rank() :: parallel.processes()]
    logps = [trainer.compute_ref_log_probs(trainer.model, _collated(trainer, batch)) for batch in mine]
    logps = parallel.all_rows([tuple(values.cpu() for values in batch) for batch in logps])
    for name, values in zip(("ref_chosen_logps", "ref_rejected_logps"), zip(*logps, strict=True), strict=True):
        rows = rows.add_column(name, torch.cat(values)[torch.tensor(order).argsort()].tolist())
    trainer.train_dataset = rows
    trainer.precompute_ref_logps = True


def _longest(pair: dict[str, Any]) -> int:
    return len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))


def _collated(trainer: DPOTrainer, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: value.to(trainer.args.device) for name, value in trainer.data_collator(rows).items()}


def shrink_adapter(policy: PeftModel, scale: float) -> None:
    """Keep a share of the adapter's change, in place; a scale of 1 keeps every bit."""
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".lora_B.default." in name:  # the change is B times A
                parameter.mul_(scale)


def save_adapter(policy: PeftModel, adapter: Path) -> None:
    """Write the adapter in PEFT's format. The same weights give the same bytes."""
    config = cast(LoraConfig, policy.peft_config["default"])
    config.target_modules = sorted(config.target_modules or ())  # a set, whose order differs from process to process
    policy.save_pretrained(str(adapter), selected_adapters=["default"])
    (adapter / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; a release writes its own
