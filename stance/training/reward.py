"""A reward model: a chat model with a LoRA adapter and a head that gives one number, the reward, per answer.

In: comparisons (or scores) of answers. Out: the adapter, which holds the head. The pairwise loss is TRL's
`-log sigmoid(r_chosen - r_rejected - margin)` (Bradley-Terry; InstructGPT, arXiv 2203.02155).

Three things are particular. The head is in float32 and computes in it, in training and after it was read from a file:
in bf16 two rewards near 4 could differ by no less than 0.03, and a head in bf16 would lose most small updates. The
head starts at zero, so every reward does. And on a CPU the base is whole even where `model.quantization` is nf4,
because there an eval-mode forward pass spoils 4-bit weights for the training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer, suppress_seqcls_warning

from stance.config.models import Model
from stance.config.road import Reward
from stance.data.chat import Fingerprint, Message, encode_conversation, fingerprint
from stance.data.comparisons import Comparison, Scored
from stance.errors import InputError
from stance.models.loading import arithmetic, quantization_config
from stance.training.curves import Curves
from stance.training.divergence import Divergence
from stance.training.dpo import adapter_in_fp32
from stance.training.progress import steps

BATCH = 16
"""Answers that are scored at once."""
MAX_RELOAD_DIFFERENCE = 1e-3
"""Largest difference between the rewards of the trained model and of the same model read from its files."""
PAIR_COLUMNS = {"loss": "loss", "accuracy": "accuracy", "margin": "margin", "mean_reward": "mean_reward"}
SCORE_COLUMNS = {"loss": "loss"}


class RewardHead(torch.nn.Linear):
    """A linear layer in float32 that computes in float32, whatever the precision of its input and around it."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the rewards at every position. Shape (batch, tokens, 1)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float())


class Trained(NamedTuple):
    """A reward model after its training."""

    model: PeftModel
    losses: list[float]
    """The loss of each step."""


def pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the id that shorter texts of a batch are padded with."""
    return cast(int, tokenizer.pad_token_id)


def answer_ids(tokenizer: PreTrainedTokenizerFast, prompt: list[Message], answer: str) -> list[int]:
    """Return the token ids of a conversation that ends with an answer, as the reward model reads it."""
    return encode_conversation(tokenizer, [*prompt, {"role": "assistant", "content": answer}])


def load_base(folder: Path, model: Model, pad_token_id: int) -> PreTrainedModel:
    """Return the base with a head of zeros.

    Args:
        folder: The model.
        model: Device, and on a GPU the quantisation. On a CPU the weights are whole.
        pad_token_id: The reward is read at the last token that is none of these.
    """
    with suppress_seqcls_warning():
        base = AutoModelForSequenceClassification.from_pretrained(
            str(folder),
            num_labels=1,
            dtype=arithmetic(model.device),
            device_map={"": model.device},
            quantization_config=quantization_config(model) if model.device == "cuda" else None,
        )
    head = RewardHead(base.score.in_features, 1, bias=False, device=model.device)
    torch.nn.init.zeros_(head.weight)
    base.score = head
    base.config.get_text_config().pad_token_id = pad_token_id
    base.config.problem_type = "regression"
    return cast(PreTrainedModel, base)


def reward_lora(options: Reward) -> LoraConfig:
    """Return PEFT's configuration; the head is trained and saved whole, or its rewards would be lost on reload."""
    modules = options.target_modules
    return LoraConfig(
        task_type="SEQ_CLS",
        r=options.r,
        lora_alpha=options.lora_alpha,
        lora_dropout=0.0,
        target_modules=modules if isinstance(modules, str) else list(modules),
        modules_to_save=["score"],
    )


def require_lengths(texts: Sequence[Sequence[int]], max_length: int) -> None:
    """Refuse texts that are too long: TRL would drop a pair that holds one.

    Raises:
        InputError: A text has more tokens than `max_length`.
    """
    if (longest := max(map(len, texts))) > max_length:
        raise InputError(
            f"reward.max_length is {max_length}, and the longest question with its answer has {longest} tokens; raise "
            f"it to {longest}"
        )


def train_reward_model(
    folder: Path, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Comparison | Scored], model: Model,
    options: Reward, seed: int, log: Path,
) -> Trained:  # fmt: skip
    """Train a reward model and write its curves to the CSV file `log`.

    Args:
        folder: The base.
        tokenizer: Its tokenizer.
        rows: Comparisons, learned by TRL's pairwise loss in their order; or scores, learned by regression.
        model: How the base is loaded.
        options: The block `reward`.
        seed: For the adapter's first weights.
        log: Receives a row per optimiser step.
    """
    torch.manual_seed(seed)
    policy = cast(PeftModel, get_peft_model(load_base(folder, model, pad_id(tokenizer)), reward_lora(options)))
    arguments = _arguments(model, options, seed, log.parent)
    trainer = _score_trainer if options.source == "scores" else _pair_trainer
    return _trained(trainer(policy, tokenizer, rows, options, arguments, log))


def _pair_trainer(
    policy: PeftModel, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Any], options: Reward,
    arguments: dict[str, Any], log: Path,
) -> Trainer:  # fmt: skip
    center = options.center_rewards_coefficient or None
    return RewardTrainer(
        model=policy,
        args=RewardConfig(**arguments, max_length=None, center_rewards_coefficient=center),
        train_dataset=Dataset.from_list([pair_row(tokenizer, row, options.margin_per_rank) for row in rows]),
        processing_class=tokenizer,
        callbacks=[Curves(log, PAIR_COLUMNS), Divergence("reward.learning_rate")],
    )


def _score_trainer(
    policy: PeftModel, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Any], options: Reward,
    arguments: dict[str, Any], log: Path,
) -> Trainer:  # fmt: skip
    table = [{"input_ids": answer_ids(tokenizer, row.prompt, row.answer), "labels": row.score} for row in rows]
    return Trainer(
        model=policy,
        args=TrainingArguments(**arguments, label_names=["labels"]),
        train_dataset=Dataset.from_list(table),
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[Curves(log, SCORE_COLUMNS), Divergence("reward.learning_rate")],
    )


def pair_row(tokenizer: PreTrainedTokenizerFast, row: Comparison, margin_per_rank: float) -> dict[str, Any]:
    """Return a comparison as TRL's tokenised row; its `margin` grows with the distance of the ranks."""
    return {
        "chosen_ids": answer_ids(tokenizer, row.prompt, row.chosen),
        "rejected_ids": answer_ids(tokenizer, row.prompt, row.rejected),
        "margin": margin_per_rank * row.distance,
    }


def _arguments(model: Model, options: Reward, seed: int, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "seed": seed,
        "num_train_epochs": options.num_epoch,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,
        "per_device_train_batch_size": options.per_device_train_batch_size,
        "gradient_checkpointing": options.gradient_checkpointing,
        "train_sampling_strategy": "sequential",  # the pairs of one question stay together
        "use_cpu": model.device == "cpu",
        "bf16": arithmetic(model.device) == torch.bfloat16,
        "dataloader_pin_memory": model.device == "cuda",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _trained(trainer: Trainer) -> Trained:
    trainer.remove_callback(PrinterCallback)
    adapter_in_fp32(cast(PeftModel, trainer.model))  # TRL has converted it to bf16 on a 4-bit base
    trainer.train()
    losses = [row["loss"] for row in steps(trainer.state)]
    # The trainer has put autocast around the forward pass, which the saved model will not have.
    policy = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    return Trained(cast(PeftModel, policy), losses)


def load_reward_model(folder: Path, adapter: Path, model: Model, pad_token_id: int) -> PeftModel:
    """Return a saved reward model, in eval mode.

    Args:
        folder: The base.
        adapter: The adapter with the head.
        model: Device and quantisation.
        pad_token_id: As in `load_base`.

    Raises:
        InputError: The adapter is missing, or holds no head.
    """
    if not (adapter / "adapter_config.json").exists():
        raise InputError(f"{adapter} holds no reward model; run `dvc repro reward`")
    with safe_open(adapter / "adapter_model.safetensors", "pt") as weights:
        if not any(name.endswith(".score.weight") for name in weights.keys()):  # noqa: SIM118
            raise InputError(f"{adapter} holds no head, so that its rewards are lost; run `dvc repro reward`")
    reward_model = PeftModel.from_pretrained(load_base(folder, model, pad_token_id), str(adapter))
    return reward_model.eval()


@torch.no_grad()
def score(model: PeftModel, texts: Sequence[list[int]], pad_token_id: int) -> list[float]:
    """Return the reward of every text. The model is switched to eval mode.

    Args:
        model: The reward model.
        texts: Token ids of conversations that end with an answer.
        pad_token_id: What the shorter texts of a batch are padded with, on the right.
    """
    model.eval()
    rewards: list[float] = []
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        width = max(map(len, batch))
        ids = torch.tensor([[*text, *[pad_token_id] * (width - len(text))] for text in batch], device=model.device)
        mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in batch], device=model.device)
        rewards += model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
    return rewards


def reload_difference(trained: Sequence[float], reloaded: Sequence[float]) -> float:
    """Return the largest difference between the rewards of a trained model and of the same model read from its files.

    Raises:
        InputError: It exceeds `MAX_RELOAD_DIFFERENCE`.
    """
    difference = max(abs(a - b) for a, b in zip(trained, reloaded, strict=True))
    if not difference <= MAX_RELOAD_DIFFERENCE:
        raise InputError(
            f"the saved reward model differs from the trained one by up to {difference:.4f}, expected at most "
            f"{MAX_RELOAD_DIFFERENCE}; the file lacks a part of the model, so do not use it"
        )
    return difference


def require_same_tokenizer(tokenizer: PreTrainedTokenizerFast, record: Path, policy: Path) -> None:
    """Refuse a reward model that was trained with another tokenizer than the policy's.

    Args:
        tokenizer: The policy's.
        record: `fingerprint.json` of the reward model.
        policy: The folder of the policy's base, for an error.

    Raises:
        InputError: The two read the probe conversations differently.
    """
    if fingerprint(tokenizer) != Fingerprint.read(record):
        raise InputError(
            f"the reward model reads conversations with another tokenizer or template than {policy}; train one on this "
            "base, `dvc repro reward`"
        )
