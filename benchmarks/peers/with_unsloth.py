"""Unsloth's DPO under the stopwatch, with the settings of our stage: `python -m ... OUT.json MODEL PAIRS`.

It runs in Unsloth's own environment, in the folder that holds our `params.yaml`. The reference's log-probabilities are
computed once, before the training. This is its fastest way.
"""

import sys
from importlib import import_module  # Unsloth's packages are none of ours
from pathlib import Path
from typing import Any

unsloth: Any = import_module("unsloth")  # it asks to be imported before transformers

from datasets import Dataset  # noqa: E402
from trl import DPOConfig, DPOTrainer  # noqa: E402

from benchmarks.peers.stopwatch import options, rows, start  # noqa: E402

SAME = (
    "beta", "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "per_device_train_batch_size",
    "gradient_accumulation_steps", "gradient_checkpointing", "max_length", "seed",
)  # fmt: skip


def train(folder: str, pairs: Path) -> None:
    """Load in 4 bits, train and save the adapter."""
    given = options()
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        folder,
        max_seq_length=given["max_length"],
        load_in_4bit=True,
        use_gradient_checkpointing=given["gradient_checkpointing"],
    )
    assert model.config.quantization_config, "Unsloth has not loaded the model in 4 bits"
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=given["r"],
        lora_alpha=given["lora_alpha"],
        lora_dropout=given["lora_dropout"],
        target_modules=given["target_modules"],
        use_gradient_checkpointing=given["gradient_checkpointing"],
        random_state=given["seed"],
    )
    config = DPOConfig(
        **{name: given[name] for name in SAME},
        output_dir="unsloth",
        num_train_epochs=given["num_epoch"],
        precompute_ref_log_probs=True,
        bf16=given["on_gpu"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows(pairs)), processing_class=tokenizer
    )
    trainer.train()
    trainer.model.save_pretrained("unsloth")


if __name__ == "__main__":
    start(Path(sys.argv[1]))
    train(sys.argv[2], Path(sys.argv[3]))
