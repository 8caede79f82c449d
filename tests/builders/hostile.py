"""Random and hostile requests in the form of OpenAI's API, the same ones for the same seed."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
HUGE = (0, -1, 1, 2, 17, 10_000, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308, float("nan"), float("inf"))
ODD = (None, True, "", "x", "\x00", "\ud800", "好" * 50, [], {}, [[]], {"": None}, ["a"] * 2000)
FIELDS = (
    "n", "best_of", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "logprobs",
    "top_logprobs", "prompt_logprobs", "stop", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "logit_bias", "stream", "stream_options", "user", "tools", "tool_choice", "response_format", "structured_outputs",
    "guided_json", "guided_regex", "guided_grammar", "echo", "suffix", "min_tokens", "ignore_eos", "bad_words",
    "allowed_token_ids", "truncate_prompt_tokens", "chat_template", "chat_template_kwargs", "add_generation_prompt",
    "continue_final_message", "documents", "mm_processor_kwargs", "vllm_xargs", "kv_transfer_params", "priority",
    "return_token_ids", "use_beam_search", "length_penalty", "include_stop_str_in_output", "skip_special_tokens",
    "functions", "modalities", "audio", "reasoning_effort", "service_tier", "parallel_tool_calls", "store", "metadata",
)  # fmt: skip


class Hostile:
    """A maker of requests: most have one or two wrong fields, some are no JSON at all."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def requests(self, count: int) -> Iterator[tuple[str, bytes]]:
        """Yield the path and the body of each request."""
        makers: tuple[Callable[[], tuple[str, bytes]], ...] = (
            self.odd,
            self.odd,
            self.schema,
            self.messages,
            self.torn,
        )
        for _ in range(count):
            yield self.random.choice(makers)()

    def odd(self) -> tuple[str, bytes]:
        """Return a sound request with one to three fields of odd values."""
        path, body = self.sound()
        for name in self.random.sample(FIELDS, self.random.randint(1, 3)):
            body[name] = self.value(3)
        return path, encoded(body)

    def schema(self) -> tuple[str, bytes]:
        """Return a request with a JSON schema, a regular expression or a grammar that costs much."""
        path, body = self.sound()
        count = self.random.choice((2, 50, 1000, 10**9))
        schemas: tuple[dict[str, Any], ...] = (
            {"type": "array", "minItems": count, "items": {"type": "string"}},
            {"type": "string", "minLength": count},
            {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(min(count, 900))}},
            {"anyOf": [{"const": number} for number in range(min(count, 900))]},
            {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}, "$ref": "#/$defs/a"},
            {"type": "number", "multipleOf": 0.01},
            nested(min(count, 200)),
        )
        schema = self.random.choice(schemas)
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        wishes: tuple[dict[str, Any], ...] = (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
            {"structured_outputs": {"json": schema}},
            {"structured_outputs": {"regex": f"(a|b){{{count}}}"}},
            {"structured_outputs": {"regex": "(a*)*" * min(count, 20)}},
            {"structured_outputs": {"grammar": 'root ::= "a" root | "b"'}},
            {"structured_outputs": {"choice": ["x"] * min(count, 1000)}},
            {"tools": [tool] * self.random.choice((1, 40))},
        )
        return path, encoded({**body, **self.random.choice(wishes)})

    def messages(self) -> tuple[str, bytes]:
        """Return a request with odd conversations or prompts."""
        text = {"type": "text", "text": "x"}
        image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x"}}
        contents = ("x" * 40_000, [text] * 70, [image], None, 7, [])
        wrong = (
            [], [{}], [{"role": "user"}], [{"role": "nobody", "content": "x"}],
            [{"role": "user", "content": "x"}] * 1100,
            [{"role": "user", "content": self.random.choice(contents)}],
            [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}], self.value(3),
        )  # fmt: skip
        prompts = ("", [], [[]], [0], [-1], [2**40], [[1, 2], [3]], ["x"] * 100, "x" * 40_000, self.value(3))
        if self.random.random() < 0.7:
            return CHAT, encoded({"model": "aligned", "max_tokens": 4, "messages": self.random.choice(wrong)})
        return PLAIN, encoded({"model": "aligned", "max_tokens": 4, "prompt": self.random.choice(prompts)})

    def torn(self) -> tuple[str, bytes]:
        """Return a request whose body is broken somewhere."""
        path, body = self.sound()
        content = bytearray(encoded(body))
        kind = self.random.randrange(4)
        if kind == 0:
            del content[self.random.randrange(len(content)) :]
        elif kind == 1:
            for _ in range(5):
                content[self.random.randrange(len(content))] = self.random.randrange(256)
        elif kind == 2:
            content = bytearray(b"[" * self.random.choice((10, 1000, 100_000)))
        else:
            content = bytearray(self.random.randbytes(self.random.randrange(2000)))
        return path, bytes(content)

    def sound(self) -> tuple[str, dict[str, Any]]:
        """Return a request that is answered."""
        common: dict[str, Any] = {"model": "aligned", "max_tokens": 4}
        if self.random.random() < 0.7:
            return CHAT, {**common, "messages": [{"role": "user", "content": "好看嗎？"}]}
        return PLAIN, {**common, "prompt": "好看"}

    def value(self, depth: int) -> Any:
        """Return an odd value, perhaps with others inside."""
        kind = self.random.randrange(4 if depth else 2)
        if kind == 0:
            return self.random.choice(HUGE)
        if kind == 1:
            return self.random.choice(ODD)
        values = [self.value(depth - 1) for _ in range(self.random.randrange(4))]
        return values if kind == 2 else {str(number): value for number, value in enumerate(values)}


def nested(depth: int) -> dict[str, Any]:
    """Return a schema of objects inside one another."""
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def encoded(body: dict[str, Any]) -> bytes:
    """Return a body as JSON; numbers that JSON does not have stay as Python writes them."""
    return json.dumps(body).encode()
