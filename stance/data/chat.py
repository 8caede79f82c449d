"""How a conversation becomes token ids, in one place for every stage.

A `Fingerprint` records this for a model: template, BOS and EOS, and the ids of three probe conversations. It shows
whether training, the merged model and a server read the same conversation in the same way.

A template is pinned when it is loaded: today's date becomes a fixed day, and thinking is off. Otherwise the ids of a
conversation would change at midnight, and an answer would be trained after an empty thought that no question begins.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import date
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from jinja2 import Environment, TemplateError
from pydantic import BaseModel, ConfigDict, TypeAdapter

from stance.errors import InputError
from stance.machine.files import REPRO, parse_record, read_json, read_output, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
OWN_CODE = (
    "brings code of its own (`auto_map` in its configuration), which is never run here; choose a model whose "
    "architecture and tokenizer transformers knows"
)


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
TODAY = date(2024, 7, 26)
"""The day that a template reads as today. Llama 3.2's template names this day where it is given no clock."""
CLOCK = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
THINKING = ("enable_thinking", "thinking")
"""The variables by which templates are told whether to think aloud (Qwen 3 and SmolLM3; Granite and DeepSeek)."""


def pinned(template: str) -> str:
    """Return a chat template that reads a conversation in the same way on every day, and without thinking.

    A call of `strftime_now` becomes the text that it returns on `TODAY`. A variable of `THINKING` that the template
    uses is false unless a request sets it. A pinned template is returned as it is.

    Raises:
        InputError: The template asks for the date in a format that it computes.
    """
    fixed = CLOCK.sub(lambda call: f"{call[1]}{TODAY.strftime(call[2])}{call[1]}", template)
    if "strftime_now(" in fixed:
        raise InputError(
            "the chat template computes the format of today's date, so that the date cannot be fixed; write a date "
            "into chat_template.jinja in place of `strftime_now`"
        )
    defaults = [f"{{% set {name} = {name} | default(false) %}}" for name in THINKING if name in variables(fixed)]
    return "".join(line for line in defaults if line not in fixed) + fixed


def variables(template: str) -> set[str]:
    """Return the names in the code of a template that are no attributes and no texts; none of a broken template."""
    try:
        tokens = [(kind, text) for _, kind, text in Environment(autoescape=True).lex(template)]
    except TemplateError:
        return set()
    before = [("", ""), *tokens]
    return {text for (kind, text), (_, last) in zip(tokens, before, strict=False) if kind == "name" and last != "."}


def pin_files(folder: Path) -> None:
    """Pin the chat template in the files of a model folder, so that whoever loads the model reads as training did."""
    file, configuration = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file() and (text := file.read_text(encoding="utf-8")) != pinned(text):
        file.write_text(pinned(text), encoding="utf-8")
    values = read_json(configuration) if configuration.is_file() else {}
    template = values.get("chat_template")
    if isinstance(template, list):  # several templates, each with a name
        changed: object = [entry | {"template": pinned(entry["template"])} for entry in template]
    else:
        changed = pinned(template) if template else template
    if changed != template:
        write_json(configuration, values | {"chat_template": changed})


def replaced_template(folder: Path) -> str | None:
    """Return the pinned template of a model whose files hold another one; None if the files hold the pinned one.

    The base is served from its own files, which stay as they are, so that its engine is given this template.
    """
    from transformers import AutoTokenizer

    templates = AutoTokenizer.from_pretrained(str(folder)).chat_template
    fixed = _all_pinned(templates)
    if fixed == templates:
        return None
    return fixed["default"] if isinstance(fixed, dict) else fixed


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """Load the tokenizer of a model folder, with its chat template pinned.

    Raises:
        InputError: The folder has no tokenizer, or the tokenizer no chat template.
    """
    from transformers import AutoTokenizer  # brings torch, seconds that a check of parameters need not wait

    try:
        # Unless this is refused, transformers asks at the terminal whether it may run the code.
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError) as error:
        if "custom code" in str(error):
            raise InputError(f"{folder} {OWN_CODE}") from None
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{folder} holds no tokenizer ({reason}); expected tokenizer.json beside the weights"
        ) from None
    if not tokenizer.chat_template:
        raise InputError(
            f"{folder} has no chat template; expected a chat model: add `chat_template` to tokenizer_config.json or "
            "a file chat_template.jinja"
        )
    tokenizer.chat_template = _all_pinned(tokenizer.chat_template)
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
    """Return the ids of a conversation and those that an answer and its end add to it.

    The last space of a prompt and the first word of an answer can be one token, as with Breeze's template and Mistral's
    tokenizer. The answer then begins where the ids part, as in TRL's training, and the prompt lacks that space.

    Raises:
        InputError: The template renders the question differently once it is answered.
    """
    answered = [*messages, {"role": "assistant", "content": answer}]
    prompt, whole = encode(tokenizer, messages), encode_conversation(tokenizer, answered)
    if whole[: len(prompt)] == prompt:
        return prompt, whole[len(prompt) :]
    if not _text(tokenizer, answered).startswith(_text(tokenizer, messages, add_generation_prompt=True)):
        raise InputError(
            "the chat template renders a question differently once it is answered, so that answers cannot be scored; "
            "expected the rendered question to be a prefix of the rendered conversation"
        )
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False)))
    return whole[:shared], whole[shared:]


def require_sound_template(tokenizer: "PreTrainedTokenizerFast") -> None:
    """Refuse a chat template that a training cannot use, before weights are fetched.

    Raises:
        InputError: The template leaves the system prompt or the question out, or renders a question differently once it
            is answered.
        TemplateError: The template refuses a system prompt.
    """
    text = _text(tokenizer, PROBES[1], add_generation_prompt=True)
    for turn in PROBES[1]:
        if turn["content"] not in text:
            part = "system prompt" if turn["role"] == "system" else "question"
            raise InputError(
                f"its chat template leaves the {part} out without a word; choose a model whose template has a "
                f"{turn['role']} turn, or write a template that has one into chat_template.jinja"
            )
    encode_answer(tokenizer, PROBES[1], "1 + 1 = 2")


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


def _all_pinned(templates: str | dict[str, str]) -> str | dict[str, str]:
    if isinstance(templates, dict):
        return {name: pinned(text) for name, text in templates.items()}
    return pinned(templates)


def _text(tokenizer: "PreTrainedTokenizerFast", messages: list[Message], *, add_generation_prompt: bool = False) -> str:
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False))
