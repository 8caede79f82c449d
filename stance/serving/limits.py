"""What one request may ask for: the values of `deploy/limits.yaml`, and the check of a request's body against them.

`read_body` parses a body, and `check` refuses a body that asks for more than the limits, or for a field that is not
listed here. Both raise `Refusal`, which names the field, what was found and the limit. OpenAI's own endpoint refuses
unknown fields, too.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from stance.errors import InputError
from stance.machine.files import read_yaml
from stance.serving import schemas
from stance.serving.refusals import Refusal

CONFIGURATION = Path("deploy/limits.yaml")
BODY = 1_000_000
"""Bytes of a body. `deploy/haproxy.cfg` has the same number."""
# fmt: off
OPENAI = [
    "model", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty", "seed", "stop",
    "stream", "stream_options", "temperature", "top_p", "user", "best_of",
]
VLLM = [
    "top_k", "min_p", "repetition_penalty", "stop_token_ids", "include_stop_str_in_output", "ignore_eos",
    "min_tokens", "skip_special_tokens", "spaces_between_special_tokens", "prompt_logprobs", "allowed_token_ids",
    "bad_words", "add_special_tokens", "response_format", "structured_outputs", "return_tokens_as_token_ids",
    "return_token_ids",
]
CONVERSATION = [
    "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls",
    "reasoning_effort", "add_generation_prompt", "continue_final_message", "chat_template_kwargs",
]
IGNORED = [
    "audio", "function_call", "functions", "metadata", "modalities", "moderation", "prediction",
    "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier", "service_tier",
    "store", "verbosity", "web_search_options",
]
"""Fields of OpenAI that vLLM takes no notice of."""
# fmt: on
COMMON = frozenset([*OPENAI, *VLLM])
CHAT = COMMON | {*CONVERSATION, *IGNORED}
TOKENIZE = "/tokenize"
FIELDS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMMON | {"prompt", "echo", "suffix"},
    TOKENIZE: CHAT | {"prompt"},
}
"""The fields that a request to each path may have. Only the checks of this project ask `/tokenize`, past the proxy."""
FORMATS = ("text", "json_object", "json_schema")
STRUCTURES = frozenset(
    ["json", "regex", "choice", "json_object", "disable_any_whitespace", "disable_additional_properties"]
)
"""The fields of `structured_outputs`. There is no `grammar`: one of 600 characters held an engine for minutes."""


class Limits(BaseModel):
    """The values of `deploy/limits.yaml`, where each is explained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: PositiveInt = 16
    sequences: PositiveInt = 64
    tokens: PositiveInt | None = None
    logprobs: PositiveInt = 20
    stops: PositiveInt = 4
    stop_length: PositiveInt = 200
    listed: PositiveInt = 300
    messages: PositiveInt = 1024
    parts: PositiveInt = 64
    tools: PositiveInt = 32
    depth: PositiveInt = 32
    schema_length: PositiveInt = 16000
    schema_repeats: PositiveInt = 1000
    schema_properties: PositiveInt = 200
    regex_length: PositiveInt = 500
    regex_repeats: PositiveInt = 100
    regex_choices: PositiveInt = 8
    schema_choices: PositiveInt = 32
    memory: PositiveInt | None = None

    @classmethod
    def read(cls, path: Path = CONFIGURATION) -> "Limits":
        """Return the limits in a file.

        Raises:
            InputError: The file has an unknown name or a value that is no positive number.
        """
        try:
            return cls.model_validate(read_yaml(path) if path.exists() else {})
        except ValidationError as error:
            [problem, *_] = error.errors()
            name = ".".join(map(str, problem["loc"]))
            raise InputError(
                f"{path}: {name or 'the file'}: {problem['msg']}, found {problem['input']!r}; expected a positive "
                f"whole number for one of {', '.join(cls.model_fields)}"
            ) from None


def read_body(text: bytes, limits: Limits) -> dict[str, Any]:
    """Return the object in a body.

    Raises:
        Refusal: The body is too large, is no JSON object or is nested too deep.
    """
    if len(text) > BODY:
        raise Refusal(f"the body has {len(text)} bytes; the limit is {BODY}", status=413)
    try:
        body = json.loads(text)
    except RecursionError:
        raise Refusal(f"the body is nested too deep; the limit is {limits.depth} levels") from None
    except ValueError as error:
        raise Refusal(f"the body is no JSON ({error}); expected a JSON object") from None
    if not isinstance(body, dict):
        raise Refusal(f"the body is a JSON {type(body).__name__}; expected an object")
    at_most(schemas.depth(body), limits.depth, "body", "levels of lists and objects")
    return body


def check(path: str, body: Mapping[str, Any], limits: Limits) -> int:
    """Check a request against the limits, and return the number of sequences that it makes the engine decode.

    Raises:
        Refusal: The request asks for more than the limits, or for something that is not offered here.
    """
    if unknown := sorted(body.keys() - FIELDS[path]):
        raise Refusal(
            f"the parameter {unknown[0]!r:.80} is not accepted here; expected only {', '.join(sorted(FIELDS[path]))}",
            unknown[0][:80],
            code="unknown_parameter",
        )
    check_numbers(body, limits)
    check_lists(body, limits)
    check_messages(body, limits)
    check_structures(body, limits)
    return sequences(body, limits)


def check_numbers(body: Mapping[str, Any], limits: Limits) -> None:
    """Refuse counts above their limit. Texts and fractions are no counts, though vLLM would take `"3"` and `3.0`."""
    counts = {"n": limits.answers, "best_of": limits.answers}
    counts |= dict.fromkeys(("logprobs", "top_logprobs", "prompt_logprobs"), limits.logprobs)
    if limits.tokens:
        counts |= dict.fromkeys(("max_tokens", "max_completion_tokens", "min_tokens"), limits.tokens)
    for name, limit in counts.items():
        value = body.get(name)
        if value is None or (name == "logprobs" and isinstance(value, bool)):
            continue
        if type(value) is not int or value < 0:
            raise Refusal(f"{name} is {json.dumps(value)[:80]}; expected a whole number from 0 to {limit}", name)
        at_most(value, limit, name)


def check_lists(body: Mapping[str, Any], limits: Limits) -> None:
    """Refuse lists with too many entries, and entries with too many characters."""
    stops = body.get("stop")
    if isinstance(stops, list):
        at_most(len(stops), limits.stops, "stop", "stop strings")
    for name in ("logit_bias", "bad_words", "stop_token_ids", "allowed_token_ids", "metadata"):
        if isinstance(value := body.get(name), list | dict):
            at_most(len(value), limits.listed, name, "entries")
    for name in ("stop", "bad_words"):
        check_texts(body.get(name), limits.stop_length, name)
    if isinstance(tools := body.get("tools"), list):
        at_most(len(tools), limits.tools, "tools", "tools")


def check_texts(value: object, limit: int, name: str) -> None:
    """Refuse a text, or a list with a text, of too many characters."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            at_most(len(text), limit, name, "characters in one text")


def check_messages(body: Mapping[str, Any], limits: Limits) -> None:
    """Refuse too many messages, and messages with something else than text: the models of this project read text."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return
    at_most(len(messages), limits.messages, "messages", "messages")
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            continue
        at_most(len(content), limits.parts, "messages", "parts in one message")
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else "text" if isinstance(part, str) else part
            if kind not in ("text", "refusal"):
                raise Refusal(
                    f"a message has a part of type {json.dumps(kind)[:80]}; expected text: this model reads "
                    "nothing else",
                    "messages",
                )


def check_structures(body: Mapping[str, Any], limits: Limits) -> None:
    """Refuse schemas, regular expressions and grammars that take long to compile, or much memory."""
    if isinstance(response_format := body.get("response_format"), dict):
        kind = response_format.get("type")
        if kind not in FORMATS:
            raise Refusal(
                f"response_format has the type {json.dumps(kind)[:80]}; expected one of {', '.join(FORMATS)}",
                "response_format",
            )
    structures = body.get("structured_outputs")
    if isinstance(structures, dict):
        check_structured_outputs(structures, limits)
    for name in ("response_format", "tools", "functions", "structured_outputs"):
        if (value := body.get(name)) is not None:
            check_schema(value, limits, name)


def check_structured_outputs(structures: Mapping[str, Any], limits: Limits) -> None:
    """Check vLLM's own field for structured answers."""
    name = "structured_outputs"
    if unknown := sorted(structures.keys() - STRUCTURES):
        raise Refusal(f"{name} has {unknown[0]!r:.80}; expected one of {', '.join(sorted(STRUCTURES))}", name)
    if isinstance(choice := structures.get("choice"), list):
        at_most(len(choice), limits.listed, name, "choices")
        check_texts(choice, limits.stop_length, name)
    if isinstance(regex := structures.get("regex"), str):
        at_most(len(regex), limits.regex_length, name, "characters of a regular expression")
        at_most(schemas.repeats(regex), limits.regex_repeats, name, "repetitions in a regular expression")
        at_most(schemas.choices_in(regex), limits.regex_choices, name, "of * + ? | { in a regular expression")
    if isinstance(schema := structures.get("json"), str):
        at_most(len(schema), limits.schema_length, name, "characters of a JSON schema")
        check_schema(read_body(schema.encode(errors="replace"), limits), limits, name)


def check_schema(value: object, limits: Limits, name: str) -> None:
    """Check all JSON schemas within a value."""
    at_most(len(json.dumps(value, ensure_ascii=False)), limits.schema_length, name, "characters of JSON schemas")
    at_most(
        schemas.most_repeats(value), limits.schema_repeats, name, "repetitions (minItems, maxLength and their like)"
    )
    at_most(schemas.properties(value), limits.schema_properties, name, "properties")
    patterns = schemas.patterns(value)
    at_most(sum(map(len, patterns)), limits.regex_length, name, "characters of patterns")
    at_most(sum(map(schemas.choices_in, patterns)), limits.regex_choices, name, "of * + ? | { in patterns")
    at_most(schemas.choices(value), limits.schema_choices, name, "entries of anyOf, oneOf and allOf")
    for pattern in patterns:
        at_most(schemas.repeats(pattern), limits.regex_repeats, name, "repetitions in a pattern")


def sequences(body: Mapping[str, Any], limits: Limits) -> int:
    """Return the number of sequences that a request makes: its prompts times the answers to each."""
    number = prompts(body.get("prompt")) * max(1, body.get("n") or 1, body.get("best_of") or 1)
    at_most(
        number, limits.sequences, "prompt" if isinstance(body.get("prompt"), list) else "n", "prompts times answers"
    )
    return number


def prompts(prompt: object) -> int:
    """Return the number of prompts in the field `prompt`: a text, a list of ids, or a list of these."""
    if isinstance(prompt, Sequence) and not isinstance(prompt, str) and any(not isinstance(one, int) for one in prompt):
        return len(prompt)
    return 1


def at_most(number: float, limit: int, name: str, unit: str = "") -> None:
    """Refuse a number above its limit."""
    if number > limit:
        shown = f"{number:.0f}" if number < 10**15 else "more than 10^15"
        raise Refusal(f"{name} asks for {shown} {unit}".rstrip() + f"; the limit is {limit}", name)
