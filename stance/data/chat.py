"""How a conversation becomes token ids, in one place for every stage.

A `Fingerprint` records this for a model: template, BOS and EOS, and the ids of three probe conversations. It shows
whether training, the merged model and a server read the same conversation in the same way.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter

from stance.errors import InputError
from stance.machine.files import REPRO, parse_record, read_output, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


Message = dict[str, str]
# The format of Breeze-7B-Instruct's model card, "<s>SYSTEM [INST] QUESTION [/INST] ANSWER", closed by EOS.
BREEZE_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %} [INST] {{ message['content'] | trim }} [/INST] "
    "{% elif message['role'] == 'assistant' %}{{ message['content'] | trim }}{{ eos_token }}"
    "{% else %}{{ message['content'] | trim }}{% endif %}"
    "{% endfor %}"
)
BREEZE_TOKENS = ("<pad>", "<s>", "</s>", "[INST]", "[/INST]")
"""The control tokens of the miniature, which has Breeze's template."""
PROBES: tuple[list[Message], ...] = (
    [{"role": "user", "content": "你好，請問你是誰？"}],
    [{"role": "system", "content": "回覆請少於20字"}, {"role": "user", "content": "What is 1 + 1?"}],
    [
        {"role": "user", "content": "台北有哪些小吃？"},
        {"role": "assistant", "content": "蚵仔煎、牛肉麵與豆花。"},
        {"role": "user", "content": "哪一樣最有名？"},
    ],
)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """Load the tokenizer of a model folder.

    Raises:
        InputError: The folder has no tokenizer, or the tokenizer no chat template.
    """
    from transformers import AutoTokenizer  # brings torch, seconds that a check of parameters need not wait

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{folder} holds no tokenizer ({reason}); expected tokenizer.json beside the weights"
        ) from None
    if not tokenizer.chat_template:
        raise InputError(
            f"{folder} has no chat template; expected a chat model: add `chat_template` to tokenizer_config.json or "
            "a file chat_template.jinja"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return cast("PreTrainedTokenizerFast", tokenizer)


def control_tokens(tokenizer: "PreTrainedTokenizerFast") -> set[str]:
    """Return the control tokens of a tokenizer, such as `</s>`: marks of the template, which no text should hold."""
    added = tokenizer.added_tokens_decoder.values()
    return {token.content for token in added if token.special and token.content.strip()}


def refuse_control_tokens(tokens: Iterable[str], texts: Mapping[str, str], origin: str) -> None:
    """Refuse texts that hold a control token of the model, which would end an answer or begin a turn in its middle.

    Args:
        tokens: The control tokens.
        texts: Texts by a name for messages.
        origin: The name of the model in an error.

    Raises:
        InputError: A text holds one; names all such texts.
    """
    held = {name: sorted(token for token in tokens if token in text) for name, text in texts.items()}
    named = "; ".join(f"{name} holds {', '.join(inside)}" for name, inside in held.items() if inside)
    if named:
        raise InputError(f"{named}: {origin} reads that as a control token and not as text; remove it from the data")


def conversation(system_prompt: str, prompt: str) -> list[Message]:
    """Return the messages that ask one question."""
    return [{"role": "system", "content": system_prompt}, {"role": "user", "content": prompt}]


def encode(tokenizer: "PreTrainedTokenizerFast", messages: list[Message]) -> list[int]:
    """Return the token ids of a conversation that the model is to continue.

    The template alone decides about BOS, as in training and in vLLM's chat: the tokenizer adds none of its own.
    """
    return _ids(tokenizer, messages, add_generation_prompt=True)


def encode_answer(
    tokenizer: "PreTrainedTokenizerFast", messages: list[Message], answer: str
) -> tuple[list[int], list[int]]:
    """Return the ids of a conversation and those that an answer and its end add to it."""
    prompt = encode(tokenizer, messages)
    whole = encode_conversation(tokenizer, [*messages, {"role": "assistant", "content": answer}])
    if whole[: len(prompt)] != prompt:
        raise InputError(
            "the chat template renders a question differently once it is answered, so that answers cannot be scored; "
            "expected the rendered question to be a prefix of the rendered conversation"
        )
    return prompt, whole[len(prompt) :]


def encode_conversation(tokenizer: "PreTrainedTokenizerFast", messages: list[Message]) -> list[int]:
    """Return the token ids of a conversation that ends with an answer."""
    return _ids(tokenizer, messages, add_generation_prompt=False)


class Fingerprint(BaseModel):
    """The record `fingerprint.json`: how a tokenizer turns a conversation into token ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chat_template_sha256: str
    chat_template: str | dict[str, str]
    """The template in Jinja; several, by name, where the tokenizer has more than one."""
    bos_token_id: int | None
    eos_token_id: int | None
    probes: list[list[int]]
    """The token ids of each conversation in `PROBES`."""

    @classmethod
    def read(cls, path: Path, advice: str = REPRO) -> Self:
        """Return the record in a `fingerprint.json`.

        Raises:
            InputError: The file is missing or in another format; the error ends with `advice`.
        """
        return cls.parse(read_output(path), path, advice)

    @classmethod
    def parse(cls, content: bytes, path: Path, advice: str = REPRO) -> Self:
        """Return the record in the bytes of a `fingerprint.json`; `path` names the file in an error."""
        return parse_record(TypeAdapter(cls), content, path, advice)

    def write(self, path: Path) -> None:
        """Write the record to a `fingerprint.json`."""
        write_json(path, self.model_dump())


def fingerprint(tokenizer: "PreTrainedTokenizerFast") -> Fingerprint:
    """Return how a tokenizer reads conversations."""
    return Fingerprint(
        chat_template_sha256=hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
        chat_template=tokenizer.chat_template,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        probes=[encode(tokenizer, probe) for probe in PROBES],
    )


def _ids(tokenizer: "PreTrainedTokenizerFast", messages: list[Message], *, add_generation_prompt: bool) -> list[int]:
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, return_dict=False)
    return cast(list[int], ids)
