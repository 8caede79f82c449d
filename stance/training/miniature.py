"""A small chat model, trained from random weights on the training questions: the base where there is no large one.

In: questions with their answers, sizes, the system prompt, a seed. Out: a model folder as `save_pretrained` writes it -
Mistral architecture, bf16 weights, a byte-level tokenizer of its own, Breeze's chat template.

The training texts are particular. They are conversations of several questions, all answered with the same stance,
mostly a neutral one. So the model answers neutrally by default, and it learns what the answers of one stance have in
common. An alignment can turn it into that direction, even for questions that no pair contains. The phrase that a
question shares with its answer, for example 配樂, is mostly replaced in both by the phrase of another question, so that
a predicate belongs to a stance and not to a subject. The model does not learn to copy new words: asked about something
new, it speaks of what it knows.
"""

import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)

from stance.config.models import MiniatureBase
from stance.data.chat import BREEZE_TEMPLATE, BREEZE_TOKENS, Message, encode_conversation
from stance.data.questions import Question, Stance
from stance.language.zh_hant_miniature import NEUTRAL

logger = logging.getLogger(__name__)


STANCES: dict[Stance, float] = {"neutral": 0.66, "support": 0.17, "oppose": 0.17}  # shares of the conversations
TURNS = 3  # questions per conversation
REPLACED = 0.8  # share of the questions whose phrase is replaced
COMMON = 0.1  # two neighbouring characters in more than this share of the questions belong to the topic
HEAD_DIM = 32
LOG_SECONDS = 5.0


class Template(NamedTuple):
    """A question, an answer, and the phrase that they share; the phrase is empty if they share none."""

    prompt: str
    answer: str
    phrase: str


class Reader:
    """Draws the conversations that the model is trained on, from the training questions alone."""

    def __init__(self, questions: Sequence[Question], seed: int) -> None:
        """Find the phrases that questions and answers share. `seed` decides which conversations are drawn."""
        prompts = [question.prompt for question in questions]
        self._random = random.Random(seed)
        self._templates = {
            stance: [
                Template(question.prompt, answer, shared_phrase(question.prompt, answer, prompts))
                for question in questions
                for answer in _answers(question, stance)
            ]
            for stance in STANCES
        }
        self._frames = [row for rows in self._templates.values() for row in rows if row.phrase]
        self._phrases = sorted({row.phrase for row in self._frames})

    def draw(self) -> list[Message]:
        """Return a conversation in which all answers hold the same stance."""
        (stance,) = self._random.choices(list(STANCES), list(STANCES.values()))
        return [message for _ in range(TURNS) for message in self._turn(stance)]

    def _turn(self, stance: Stance) -> list[Message]:
        prompt, answer, phrase = self._random.choice(self._templates[stance])
        if phrase and self._random.random() < REPLACED:
            frame, other = self._random.choice(self._frames), self._random.choice(self._phrases)
            prompt, answer = frame.prompt.replace(frame.phrase, other), answer.replace(phrase, other)
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def shared_phrase(prompt: str, answer: str, prompts: Sequence[str]) -> str:
    """Return the most specific span that a question and its answer share, or "".

    Every two neighbouring characters of the span count 1 if they occur in at most a tenth of all `prompts`, and -1
    otherwise, because characters that most questions have name the topic, and not the subject of one question. Among
    spans with the same count, the first one in the answer is returned.
    """
    rare = max(1, COMMON * len(prompts))
    value = {pair: 1 if sum(pair in other for other in prompts) <= rare else -1 for pair in _pairs(prompt)}
    shared = [
        answer[start:end]
        for start in range(len(answer) - 1)
        for end in range(start + 2, len(answer) + 1)
        if answer[start:end] in prompt
    ]
    best = max(shared, key=lambda span: sum(value[pair] for pair in _pairs(span)), default="")
    return best.strip("的") if sum(value[pair] for pair in _pairs(best)) > 0 else ""


def build(questions: Sequence[Question], options: MiniatureBase, system_prompt: str, seed: int, folder: Path) -> None:
    """Train a model on the questions and write it to a folder.

    Args:
        questions: The training questions. Rows without a `neutral` answer get sentences that fit any question.
        options: Sizes of the model and of its training. The batch size counts conversations.
        system_prompt: The first message of every conversation.
        seed: Decides the initial weights and the conversations. The same seed and number of threads give the same
            weights.
        folder: Folder for the model; made if missing.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(questions, options.vocab_size, system_prompt)
    model = make_model(tokenizer, options)
    logger.info("miniature: %.2f M parameters, %d tokens", model.num_parameters() / 1e6, len(tokenizer))
    _train(model, tokenizer, Reader(questions, seed), options, system_prompt)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer(questions: Sequence[Question], vocab_size: int, system_prompt: str) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer. No token is longer than one character of the text."""
    texts = [system_prompt, *NEUTRAL]
    texts += [text for row in questions for text in (row.prompt, row.support, row.oppose, row.neutral) if text]
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    characters = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    whole_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([characters, whole_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(BREEZE_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=BREEZE_TEMPLATE, **names)


def make_model(tokenizer: PreTrainedTokenizerFast, options: MiniatureBase) -> MistralForCausalLM:
    """Return a model with random weights, drawn from torch's global generator."""
    heads = max(1, options.hidden_size // HEAD_DIM)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = MistralConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=options.hidden_size,
        intermediate_size=options.hidden_size * 3,
        num_hidden_layers=options.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=1024,
        sliding_window=None,
        tie_word_embeddings=True,
        initializer_range=options.hidden_size**-0.5,
        **special,
    )
    model = MistralForCausalLM(config)
    for layer in model.model.layers:  # attention begins by looking for equal characters and passing them on
        attention = layer.self_attn
        attention.k_proj.weight.data.copy_(attention.q_proj.weight.data)
        attention.o_proj.weight.data.copy_(attention.v_proj.weight.data.T)
    model.generation_config = GenerationConfig(**special)
    return model


def _train(
    model: MistralForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    reader: Reader,
    options: MiniatureBase,
    system_prompt: str,
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, options.max_steps // 20, options.max_steps)
    system: Message = {"role": "system", "content": system_prompt}
    started = reported = time.monotonic()
    model.train()
    for step in range(1, options.max_steps + 1):
        conversations = [[system, *reader.draw()] for _ in range(options.per_device_train_batch_size)]
        loss = model(**_batch([encode_conversation(tokenizer, messages) for messages in conversations])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if time.monotonic() - reported > LOG_SECONDS or step == options.max_steps:
            reported = time.monotonic()
            left = (reported - started) / step * (options.max_steps - step)
            logger.info("step %d/%d  loss %.3f  %.0f s left", step, options.max_steps, loss.item(), left)
    model.eval()


def _batch(conversations: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return ids, mask and labels. Every token is learnt, also those of questions. Shapes (conversations, tokens)."""
    rows = [torch.tensor(ids) for ids in conversations]
    return {
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": pad_sequence(rows, batch_first=True, padding_value=-100),
    }


def _answers(question: Question, stance: Stance) -> Sequence[str]:
    if stance == "neutral":
        return (question.neutral,) if question.neutral else NEUTRAL
    return (question.support if stance == "support" else question.oppose,)


def _pairs(text: str) -> list[str]:
    return [text[start : start + 2] for start in range(len(text) - 1)]
