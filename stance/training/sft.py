"""Supervised fine-tuning (SFT) with TRL: the rows, the settings, and the proof that only the answers are trained on.

Rows are TRL's prompt and completion, so that the mask needs no marks in the chat template. TRL only warns where it
cannot cut a row in two; here each mask is compared with the one that the tokenizer gives, before the first step.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from pydantic import TypeAdapter, ValidationError
from transformers import PreTrainedTokenizerFast
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from stance.config.models import Model
from stance.config.training import PlainText, Sft, Train
from stance.data.chat import encode_answer
from stance.data.preferences import Pair, Turn
from stance.data.training import FineTuning, Piece
from stance.errors import InputError
from stance.machine.files import first_problem, read_jsonl
from stance.models.loading import arithmetic
from stance.training.progress import steps

IGNORED = -100
"""The label of a token that is not trained on."""
EXAMPLES = 4
"""Number of rows whose mask the report shows."""
BROKEN = "\ufffd"
"""What a tokenizer decodes to that has half a character."""
TURNS = TypeAdapter(list[Turn])

Row = dict[str, list[dict[str, Any]]]


def answer_rows(pairs: Sequence[Pair]) -> list[Row]:
    """Return the questions with their chosen answers, in TRL's format."""
    return [pair.model_dump(include={"prompt"}) | {"completion": pair.model_dump()["chosen"]} for pair in pairs]


def conversation_rows(path: Path) -> list[Row]:
    """Return the conversations in a JSON Lines file, `{"messages": [{"role", "content"}, …]}` in each line.

    The last message of each is the answer that is trained on. A conversation may have a system prompt of its own.

    Raises:
        InputError: The file is missing, or a conversation does not end with a question and an answer.
    """
    try:
        lines = read_jsonl(path)
    except FileNotFoundError:
        raise InputError(f"sft.conversations is {path}, which does not exist; name a JSON Lines file") from None
    return [_conversation(line, f"{path}, row {number}") for number, line in enumerate(lines, 1)]


def _conversation(line: Any, where: str) -> Row:
    try:
        turns = TURNS.validate_python(line.get("messages"))
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error, 'messages')}; expected a list of role and content") from None
    if [turn.role for turn in turns[-2:]] != ["user", "assistant"]:
        raise InputError(f"{where}: expected a question and then an answer at the end; add them, or remove the row")
    *prompt, answer = (turn.model_dump() for turn in turns)
    return {"prompt": prompt, "completion": [answer]}


def sft_config(
    model: Model, options: Sft | PlainText, train: Train, seed: int, output_dir: Path, **settings: Any
) -> SFTConfig:
    """Return TRL's configuration; what `sft` and `settings` do not name is as in `train`."""
    return SFTConfig(
        output_dir=str(output_dir),
        seed=seed,
        num_train_epochs=options.num_epoch,
        learning_rate=options.learning_rate,
        lr_scheduler_type=train.lr_scheduler_type,
        warmup_steps=train.warmup_steps,
        optim=train.optim,
        per_device_train_batch_size=train.per_device_train_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        max_length=train.max_length,
        gradient_checkpointing=train.gradient_checkpointing,
        model_init_kwargs={"dtype": arithmetic(model.device), "device_map": {"": model.device}},
        use_cpu=model.device == "cpu",
        bf16=arithmetic(model.device) == torch.bfloat16,
        dataloader_pin_memory=model.device == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # a fine-tuning on a few dozen answers takes less time than a resumption
        report_to="none",
        disable_tqdm=True,
        **settings,
    )


def require_masks(trainer: SFTTrainer, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row]) -> None:
    """Refuse a row whose labels are not exactly the tokens of its answer and its end.

    Raises:
        InputError: A row is longer than `train.max_length`, or TRL masks it in another way; names the row.
    """
    prepared = cast(Dataset, trainer.train_dataset).to_list()
    limit = cast(int, cast(SFTConfig, trainer.args).max_length)
    if len(prepared) != len(rows):
        raise InputError(f"TRL keeps {len(prepared)} of {len(rows)} rows; raise train.max_length (found {limit})")
    for number, (row, example) in enumerate(zip(rows, prepared, strict=True), 1):
        prompt, answer = encode_answer(tokenizer, row["prompt"], row["completion"][0]["content"])
        if len(prompt) + len(answer) > limit:
            raise InputError(
                f"row {number} of the fine-tuning has {len(prompt) + len(answer)} tokens, so that its end would be cut "
                f"off; expected at most train.max_length = {limit}: raise it, or shorten the answer"
            )
        if labels(trainer, example) != [IGNORED] * len(prompt) + answer:
            raise InputError(
                f"the mask of row {number} of the fine-tuning is not its answer alone, so that the model would learn "
                "other text; the chat template renders the question differently once it is answered: take another"
            )


def labels(trainer: SFTTrainer, example: dict[str, Any]) -> list[int]:
    """Return the labels that the training sees of a row, `IGNORED` where it sees none."""
    batch = trainer.data_collator([example])
    return [int(label) for label in batch["labels"][0]]


def pieces(ids: Sequence[int], marks: Sequence[bool], tokenizer: PreTrainedTokenizerFast) -> list[Piece]:
    """Return a row as people read it: tokens that make whole characters together, and whether they are trained on."""
    cut: list[Piece] = []
    waiting: list[int] = []
    for place, (token, trained) in enumerate(zip(ids, marks, strict=True), 1):
        waiting.append(token)
        text = str(tokenizer.decode(waiting))
        if not text.endswith(BROKEN) or place == len(ids) or marks[place] != trained:
            cut.append(Piece(text=text, tokens=len(waiting), trained=trained))
            waiting = []
    return cut


def fine_tuning(trainer: SFTTrainer, tokenizer: PreTrainedTokenizerFast, options: Sft) -> FineTuning:
    """Return the record of a fine-tuning that has ended."""
    rows = cast(Dataset, trainer.train_dataset).to_list()
    marks = [[label != IGNORED for label in labels(trainer, row)] for row in rows]
    losses = [row["loss"] for row in steps(trainer.state)]
    return FineTuning(
        method=options.method,
        rows=len(rows),
        tokens=sum(map(len, marks)),
        trained_tokens=sum(map(sum, marks)),
        first_loss=losses[0],
        last_loss=losses[-1],
        examples=[
            pieces(row["input_ids"], marked, tokenizer)
            for row, marked in list(zip(rows, marks, strict=True))[:EXAMPLES]
        ],
    )
