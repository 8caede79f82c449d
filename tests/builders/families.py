"""Tiny tokenizers that render conversations as the tokenizers of well-known families do; the words are made up."""

from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from stance.data.chat import BREEZE_TEMPLATE, pinned

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
LLAMA_2 = (  # BOS before every question, the system prompt inside the first one
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set turns = messages %}{% set system = '' %}{% endif %}{% for message in turns %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3_2 = (  # today's date in a system turn that is always there
    "{{ bos_token }}{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}"
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + system + '<|eot_id|>' }}"
    "{% for message in turns %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN_3 = (  # an empty thought before the last answer, and before a new one only where thinking is off
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
SMOLLM_3 = (  # today's date and the mode in the system turn; thinking unless it is switched off
    "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
    "{% set thought = '' if enable_thinking else '<think>\n\n</think>\n' %}"
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    '{{ "<|im_start|>system\nToday Date: " + strftime_now("%d %B %Y") + "\nReasoning Mode: " }}'
    "{{ ('/think' if enable_thinking else '/no_think') + '\n\n' + system + '<|im_end|>\n' }}"
    "{% for message in turns %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{{ (thought if message.role == 'assistant' else '') + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + thought }}{% endif %}"
)
PHI_3 = (  # EOS at the very end, and not after an answer
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + GEMMA
)
MISTRAL_V3 = (  # the system prompt before the last question, gone once that is answered
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}{% for message in turns %}"
    "{% if message.role == 'user' %}{{ '[INST] ' }}"
    "{% if loop.last and system is defined %}{{ system + '\n\n' }}{% endif %}"
    "{{ message.content + '[/INST]' }}{% else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"
)
PHI_3_MEDIUM = (  # no system turn
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
    "{{ '<|user|>\n' + message.content + '<|end|>\n<|assistant|>\n' }}"
    "{% elif message.role == 'assistant' %}{{ message.content + '<|end|>\n' }}{% endif %}{% endfor %}"
)
THINKS_ALWAYS = (  # a thought is begun for the model, and cut off an answer that it gave
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
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
    "Llama 2": Family(LLAMA_2, "<s>", "</s>", adds_bos=True),
    "Llama 3.2": Family(
        LLAMA_3_2, "<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>"), adds_bos=True
    ),
    "Qwen3": Family(QWEN_3, None, "<|im_end|>", ("<|im_start|>",)),
    "SmolLM3": Family(SMOLLM_3, None, "<|im_end|>", ("<|im_start|>",)),
    "Phi-3": Family(PHI_3, "<s>", "<|endoftext|>", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
    "BOS left to the tokenizer": Family(MARKED, "<s>", "</s>", ("<|user|>", "<|assistant|>"), adds_bos=True),
}

REFUSED = {
    "Gemma 2": (Family(GEMMA_2, "<bos>", "<eos>"), "refuses a conversation with a system prompt .System role not supp"),
    "Mistral 7B v0.3": (Family(MISTRAL_V3, "<s>", "</s>"), "renders a question differently once it is answered"),
    "Phi-3-medium": (Family(PHI_3_MEDIUM, "<s>", "</s>"), "leaves the system prompt out without a word"),
    "DeepSeek-R1-Distill": (Family(THINKS_ALWAYS, "<s>", "</s>"), "renders a question differently once it is answered"),
}
"""Families that the stage `base` refuses, each with the reason."""
TEXTS = ("AI is good.", "CG is bad.", "Yes, it will.", "Is it good? ", "Be brief. ", "回覆請少於20字", "畫面會更好。")


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
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=pinned(family.template), **names)


def sentencepiece_of(family: Family) -> PreTrainedTokenizerFast:
    """Return a tokenizer like SentencePiece's: a space and the word behind it become one token."""
    return _trained(family, pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace(), [])


def byte_level_of(family: Family) -> PreTrainedTokenizerFast:
    """Return a tokenizer like GPT-2's: byte-level BPE, in which a space belongs to the word behind it."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(family, pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), alphabet)


def _trained(
    family: Family, splits: pre_tokenizers.PreTokenizer, joins: decoders.Decoder, alphabet: list[str]
) -> PreTrainedTokenizerFast:
    special = [token for token in ("<unk>", family.bos, family.eos, *family.marks) if token]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = splits, joins
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, *map(chr, range(33, 127)), "\n"] * 4, trainer)
    names = {"eos_token": family.eos, "unk_token": "<unk>"} | ({"bos_token": family.bos} if family.bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=pinned(family.template), **names)
