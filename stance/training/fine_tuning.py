"""One supervised fine-tuning from the files of a run to those of the stage `sft`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from stance.config.models import Model
from stance.config.training import PlainText, Sft, Train
from stance.data.chat import control_tokens, refuse_control_tokens
from stance.data.plain_text import RECORD, Pretraining, read_texts
from stance.data.preferences import Pair, read_pairs
from stance.errors import InputError
from stance.machine.files import from_project
from stance.models.base import MODEL, locate
from stance.models.loading import load, quantization_config, require_device
from stance.models.outline import adapted_layers, configuration, outline
from stance.models.parity import score
from stance.training.divergence import Divergence
from stance.training.dpo import answers_only, checked_tokenizer, dequantize, lora_config, prepare_policy, save_adapter
from stance.training.merging import answer_texts, release_memory, stored_names, write_changed, write_logps
from stance.training.progress import Progress, steps
from stance.training.sft import Row, answer_rows, conversation_rows, fine_tuning, require_masks, sft_config

Weights = dict[str, Tensor]


def fine_tune(
    model: Model,
    options: Sft,
    shape: Train,
    seed: int,
    base: Path,
    pairs: Path,
    conversations: Path | None,
    out: Path,
) -> None:
    """Fine-tune an adapter or all weights; arguments, files and errors are those of `tasks.sft`."""
    require_device(model)
    folder = locate(base)
    adapted_layers(outline(configuration(folder)), shape.target_modules)
    tokenizer = checked_tokenizer(folder, base)
    train, held_out = read_pairs(pairs / "train.jsonl"), read_pairs(pairs / "eval.jsonl")
    rows = answer_rows(train) + (conversation_rows(conversations) if conversations else [])
    require_no_control_tokens(rows, tokenizer, folder)
    whole = all_weights(folder, model.device) if options.method == "full" else None
    with TemporaryDirectory() as checkpoints:
        scratch = Path(checkpoints)
        weights = pretrain(model, options.plain_text, shape, seed, folder, whole, tokenizer, scratch, out)
        release_memory()  # of the optimiser of the plain text
        config = sft_config(model, options, shape, seed, scratch)
        trainer = trainer_of(model, shape, folder, whole, tokenizer, rows, config, out / "log.csv")
        require_masks(trainer, tokenizer, rows)
        policy = ready(trainer)
        if weights:
            set_peft_model_state_dict(policy, weights)
        with answers_only():
            trainer.train()
    fine_tuning(trainer, tokenizer, options).write(out / "sft.json")
    if whole is None:
        save_adapter(policy, out / "adapter")
        leave_logps(policy, tokenizer, [*train, *held_out], out)
        return
    write_tuned(folder, whole, model.device, out / MODEL)
    del trainer, policy, whole
    release_memory()
    written = load(out / MODEL, model.device, quantization_config(model))
    dequantize(written)  # as the training that follows does
    leave_logps(written, tokenizer, [*train, *held_out], out)


def all_weights(folder: Path, device: str) -> PreTrainedModel:
    """Return the model in fp32, to train all its weights; bf16 would round small steps away.

    Raises:
        InputError: The model has a weight that its files do not name, so that it could not be saved.
    """
    model = load(folder, device, dtype=torch.float32)
    if unnamed := sorted({name for name, _ in model.named_parameters()} - stored_names(folder)):
        raise InputError(
            f"{folder} has no weight of the name {unnamed[0]}, so that it could not be saved after a training; set "
            "sft.method to lora, or choose a base whose weights are named like its modules"
        )
    return model


def write_tuned(folder: Path, model: PreTrainedModel, device: str, out: Path) -> None:
    """Write a trained model with the files, the names and the dtypes of the model in `folder`."""
    weights = dict(model.named_parameters(remove_duplicate=False))

    def trained(name: str, stored: Tensor) -> Tensor:
        return weights[name].detach().to(stored) if name in weights else stored

    write_changed(folder, trained, device, out)


def pretrain(
    model: Model, options: PlainText | None, shape: Train, seed: int, folder: Path, whole: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerFast, scratch: Path, out: Path,
) -> Weights:  # fmt: skip
    """Train on plain text, and write the log and the record; return the adapter's weights, none without an adapter."""
    if not options:
        return {}
    texts = read_texts(from_project(Path(options.path)))
    named = {f"the text in row {number}": text for number, text in enumerate(texts, 1)}
    refuse_control_tokens(control_tokens(tokenizer), named, str(folder))
    config = sft_config(model, options, shape, seed, scratch, packing=True, packing_strategy="wrapped")
    rows = [{"text": text} for text in texts]
    trainer = trainer_of(model, shape, folder, whole, tokenizer, rows, config, out / "plain_text.csv")
    policy = ready(trainer)
    trainer.train()
    pretraining(trainer, len(texts)).write(out / RECORD)
    if whole is not None:
        return {}
    return {name: weight.cpu().clone() for name, weight in get_peft_model_state_dict(policy).items()}


def pretraining(trainer: SFTTrainer, texts: int) -> Pretraining:
    """Return the record of a continued pre-training on a number of texts."""
    blocks = cast(Dataset, trainer.train_dataset).to_list()
    losses = [row["loss"] for row in steps(trainer.state)]
    tokens = sum(len(block["input_ids"]) for block in blocks)
    return Pretraining(texts=texts, blocks=len(blocks), tokens=tokens, first_loss=losses[0], last_loss=losses[-1])


def trainer_of(
    model: Model, shape: Train, folder: Path, whole: PreTrainedModel | None, tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Mapping[str, Any]], config: SFTConfig, log: Path,
) -> SFTTrainer:  # fmt: skip
    """Return a trainer of all weights, or of a new adapter on the base where there are none, with its log at `log`."""
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans 0.1 s for every new length of a batch
    if whole is not None:
        config.model_init_kwargs = None  # the model is loaded
    trainer = SFTTrainer(
        model=str(folder) if whole is None else whole,
        args=config,
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        quantization_config=quantization_config(model) if whole is None else None,
        peft_config=lora_config(shape) if whole is None else None,
        callbacks=[Progress(log), Divergence("sft.learning_rate")],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def ready(trainer: SFTTrainer) -> PeftModel:
    """Return the policy of a trainer, prepared to be trained."""
    policy = cast(PeftModel, trainer.model)
    prepare_policy(policy)
    return policy


def require_no_control_tokens(rows: list[Row], tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Refuse rows whose texts hold a control token of the model."""
    texts = {
        f"turn {turn} of row {number}": message["content"]
        for number, row in enumerate(rows, 1)
        for turn, message in enumerate([*row["prompt"], *row["completion"]], 1)
    }
    refuse_control_tokens(control_tokens(tokenizer), texts, str(folder))


def leave_logps(policy: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, pairs: list[Pair], out: Path) -> None:
    """Write the log-probabilities of the pairs' answers under the fine-tuned model, which `train` compares."""
    texts = [text for pair in pairs for text in answer_texts(tokenizer, pair)]
    write_logps(out, pairs, score(policy, texts))
