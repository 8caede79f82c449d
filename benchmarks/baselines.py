"""What a user would do instead: the course's notebook, and TRL as its defaults are. One of them per process.

    python -m benchmarks.baselines notebook MODEL DATASET PAIRS OUT --tokens 30 200
    python -m benchmarks.baselines padded MODEL DATASET PAIRS OUT
    python -m benchmarks.baselines trl MODEL DATASET PAIRS OUT

OUT receives the seconds of every phase, the losses and the peak of allocated GPU memory, as JSON.
"""

import time

STARTED = time.monotonic()  # the imports below are part of what is measured

import argparse  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from trl.trainer.dpo_config import DPOConfig  # noqa: E402
from trl.trainer.dpo_trainer import DPOTrainer  # noqa: E402

from stance.data.chat import conversation, encode, load_tokenizer  # noqa: E402
from stance.data.questions import read_prompts  # noqa: E402
from stance.machine.files import read_jsonl, write_json  # noqa: E402
from stance.models.loading import load, nf4  # noqa: E402
from stance.training.dpo import adapter_in_fp32  # noqa: E402
from stance.training.progress import steps  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SYSTEM = "回覆請少於20字"
# The course's, but for the dropout (0.1), without which losses can be compared step by step.
LORA = LoraConfig(task_type="CAUSAL_LM", r=64, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])


class Clock:
    """Seconds per phase, one after the other."""

    def __init__(self) -> None:
        """Begin with the phase of the imports."""
        self.seconds = {"import": time.monotonic() - STARTED}
        self._last = time.monotonic()

    def __call__(self, phase: str) -> None:
        """End a phase."""
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        now = time.monotonic()
        self.seconds[phase], self._last = now - self._last, now


def notebook(model_folder: Path, dataset: Path, pairs: Path, tokens: list[int]) -> dict[str, Any]:
    """Load in NF4, answer one prompt after the other, train with batch 1 x accumulation 8, answer again."""
    clock = Clock()
    tokenizer, model = load_tokenizer(model_folder), load(model_folder, DEVICE, nf4(DEVICE))
    clock("load")
    if DEVICE == "cuda":  # on a CPU this may spoil the training, see `dequantize` in stance/training/dpo.py
        answer(model, tokenizer, dataset, tokens, clock, "before")
    return trained(notebook_config(pairs), model, tokenizer, dataset, pairs, tokens, clock)


def padded(model_folder: Path, dataset: Path, pairs: Path, tokens: list[int]) -> dict[str, Any]:
    """The notebook's training with its texts padded, which should change nothing: how much rounding alone does."""
    clock = Clock()
    tokenizer, model = load_tokenizer(model_folder), load(model_folder, DEVICE, nf4(DEVICE))
    clock("load")
    return trained(notebook_config(pairs, pad_to_multiple_of=16), model, tokenizer, dataset, pairs, tokens, clock)


def notebook_config(pairs: Path, **changes: Any) -> DPOConfig:
    """Return the notebook's settings."""
    return DPOConfig(
        output_dir=str(pairs.parent / "notebook"),
        num_train_epochs=3,
        beta=0.1,
        learning_rate=2e-4,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        optim="paged_adamw_8bit" if DEVICE == "cuda" else "adamw_torch",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
        gradient_checkpointing=False,
        max_length=512,
        **common(),
        **changes,
    )


def trl(model_folder: Path, dataset: Path, pairs: Path, tokens: list[int]) -> dict[str, Any]:
    """The same base, adapter, pairs and epochs, with TRL's own defaults for the training."""
    clock = Clock()
    tokenizer, model = load_tokenizer(model_folder), load(model_folder, DEVICE, nf4(DEVICE))
    clock("load")
    config = DPOConfig(output_dir=str(pairs.parent / "trl"), num_train_epochs=3, **common())
    return trained(config, model, tokenizer, dataset, pairs, tokens, clock)


def common() -> dict[str, Any]:
    """Return what does not change the training: a log per step, and no reports."""
    return {"seed": 42, "logging_steps": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": DEVICE == "cpu"}


def trained(
    config: DPOConfig, model: Any, tokenizer: Any, dataset: Path, pairs: Path, tokens: list[int], clock: Clock
) -> dict[str, Any]:
    """Train, answer, and return what was measured."""
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in read_jsonl(pairs / "train.jsonl")]
    trainer = DPOTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=LORA
    )
    adapter_in_fp32(trainer.model)  # as our stage does, so that the losses can be compared
    trainer.train()
    clock("train")
    answer(trainer.model, tokenizer, dataset, tokens, clock, "after")
    losses = [row["loss"] for row in steps(trainer.state)]
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    return {"seconds": clock.seconds, "losses": losses, "peak_allocated": peak}


@torch.no_grad()
def answer(model: Any, tokenizer: Any, dataset: Path, tokens: list[int], clock: Clock, when: str) -> None:
    """Answer the test prompts one by one, greedily, once for each limit of tokens."""
    model.eval()
    for limit in tokens:
        for row in read_prompts(dataset)[:10]:
            ids = torch.tensor([encode(tokenizer, conversation(SYSTEM, row.prompt))], device=DEVICE)
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        clock(f"{when}_{limit}")
    model.train()


BASELINES = {"notebook": notebook, "padded": padded, "trl": trl}


def main() -> None:
    """Run the baseline that the command line names."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("baseline", choices=[*BASELINES])
    for name in ("model", "dataset", "pairs", "out"):
        ask.add_argument(name, type=Path)
    ask.add_argument("--tokens", type=int, nargs="*", default=[])
    options = ask.parse_args()
    write_json(options.out, BASELINES[options.baseline](options.model, options.dataset, options.pairs, options.tokens))


if __name__ == "__main__":
    main()
