"""One supervised fine-tuning from the files of a run to those of the stage `sft`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerFast, PrinterCallback
from trl.trainer.sft_trainer import SFTTrainer

from stance.config.models import Model
from stance.config.training import Sft, Train
from stance.data.chat import control_tokens, refuse_control_tokens
from stance.data.preferences import Pair, read_pairs
from stance.models.base import locate
from stance.models.loading import quantization_config, require_device
from stance.models.outline import adapted_layers, configuration, outline
from stance.models.parity import score
from stance.training.dpo import checked_tokenizer, lora_config, prepare_policy, save_adapter
from stance.training.merging import answer_texts, write_logps
from stance.training.progress import Progress
from stance.training.sft import Row, answer_rows, conversation_rows, fine_tuning, require_masks, sft_config


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
    """Fine-tune a LoRA adapter; arguments, files and errors are those of `tasks.sft`."""
    require_device(model)
    folder = locate(base)
    adapted_layers(outline(configuration(folder)), shape.target_modules)
    tokenizer = checked_tokenizer(folder, base)
    train, held_out = read_pairs(pairs / "train.jsonl"), read_pairs(pairs / "eval.jsonl")
    rows = answer_rows(train) + (conversation_rows(conversations) if conversations else [])
    require_no_control_tokens(rows, tokenizer, folder)
    with TemporaryDirectory() as checkpoints:
        trainer = prepared(model, options, shape, seed, folder, tokenizer, rows, Path(checkpoints), out)
        policy = cast(PeftModel, trainer.model)
        trainer.train()
    save_adapter(policy, out / "adapter")
    fine_tuning(trainer, tokenizer).write(out / "sft.json")
    leave_logps(policy, tokenizer, [*train, *held_out], out)


def prepared(
    model: Model, options: Sft, shape: Train, seed: int, folder: Path, tokenizer: PreTrainedTokenizerFast,
    rows: list[Row], checkpoints: Path, out: Path,
) -> SFTTrainer:  # fmt: skip
    """Return the trainer of a fine-tuning, whose masks were checked."""
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans 0.1 s for every new length of a batch
    config = sft_config(model, options, shape, seed, checkpoints)
    config.save_strategy = cast(Any, "no")  # a fine-tuning on a few dozen answers takes less time than a resumption
    trainer = SFTTrainer(
        model=str(folder),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        quantization_config=quantization_config(model),
        peft_config=lora_config(shape),
        callbacks=[Progress(out / "log.csv")],
    )
    trainer.remove_callback(PrinterCallback)
    require_masks(trainer, tokenizer, rows)
    prepare_policy(cast(PeftModel, trainer.model))
    return trainer


def require_no_control_tokens(rows: list[Row], tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Refuse rows whose texts hold a control token of the model."""
    texts = {
        f"turn {turn} of row {number}": message["content"]
        for number, row in enumerate(rows, 1)
        for turn, message in enumerate([*row["prompt"], *row["completion"]], 1)
    }
    refuse_control_tokens(control_tokens(tokenizer), texts, str(folder))


def leave_logps(policy: PeftModel, tokenizer: PreTrainedTokenizerFast, pairs: list[Pair], out: Path) -> None:
    """Write the log-probabilities of the pairs' answers under the fine-tuned model, which `train` compares."""
    texts = [text for pair in pairs for text in answer_texts(tokenizer, pair)]
    write_logps(out, pairs, score(policy, texts))
