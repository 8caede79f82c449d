"""Tiny tokenizers that render conversations as the tokenizers of well-known families do; the words are made up."""

from typing import NamedTuple

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from stance.data.chat import BREEZE_TEMPLATE

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (  # of version 7 of its format; the first refuses a system prompt, and so does the stage `base` such a model
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST]' + message['content'] + '[/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (  # of Gemma 3, which puts the system prompt into the first question; Gemma 1 and 2 refuse one
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{ (system if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


class Family(NamedTuple):
    """A chat template and the special tokens that it needs."""

    template: str
    bos: str | None
    eos: str
    marks: tuple[str, ...] = ()
    adds_bos: bool = False
    """Does the tokenizer put BOS before a text by itself?"""


FAMILIES = {
    "Llama 3": Family(
        LLAMA_3, "<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>"), adds_bos=True
    ),
    "Qwen2.5": Family(CHATML, None, "<|im_end|>", ("<|im_start|>",)),
    "Mistral": Family(
        MISTRAL, "<s>", "</s>", ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), adds_bos=True
    ),
    "Gemma": Family(GEMMA, "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), adds_bos=True),
    "Breeze": Family(BREEZE_TEMPLATE, "<s>", "</s>", ("[INST]", "[/INST]"), adds_bos=True),
    "SmolLM2": Family(CHATML, "<|im_start|>", "<|im_end|>"),
    "BOS left to the tokenizer": Family(MARKED, "<s>", "</s>", ("<|user|>", "<|assistant|>"), adds_bos=True),
}


def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whose special tokens each is one token, and each other character is one token."""
    special = [token for token in ("<unk>", family.bos, family.eos, *family.marks) if token]
    vocabulary = {token: number for number, token in enumerate([*special, *map(chr, range(32, 127)), "\n"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(special)
    if family.adds_bos and family.bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, vocabulary[family.bos])]
        )
    names = {"eos_token": family.eos, "unk_token": "<unk>"} | ({"bos_token": family.bos} if family.bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=family.template, **names)
