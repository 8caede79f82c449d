"""What a request may ask for, and how a refusal says it."""

import json
import time
from collections import Counter
from typing import Any

import pytest
from openai.types import completion_create_params as completion
from openai.types.chat import completion_create_params as chat

from stance.errors import InputError
from stance.serving.limits import FIELDS, Limits, check, read_body
from stance.serving.refusals import Refusal
from tests.builders.hostile import Hostile

LIMITS = Limits()
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "why?"}]


def of(**fields: Any) -> dict[str, Any]:
    return {"model": "aligned", "messages": MESSAGES, **fields}


def schema(value: Any) -> dict[str, Any]:
    return of(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": value}})


def deep(levels: int) -> Any:
    value: Any = {"type": "string"}
    for _ in range(levels):
        value = {"type": "array", "items": value}
    return value


def many(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(number)}, **more}


HOSTILE = {
    "n": (of(n=10_000), "n", "n asks for 10000; the limit is 16"),
    "n as a text": (of(n="10000"), "n", "expected a whole number from 0 to 16"),
    "n as a fraction": (of(n=1e4), "n", "expected a whole number from 0 to 16"),
    "n below zero": (of(n=-1), "n", "expected a whole number from 0 to 16"),
    "n as true": (of(n=True), "n", "expected a whole number from 0 to 16"),
    "best_of": (of(best_of=17), "best_of", "best_of asks for 17; the limit is 16"),
    "top_logprobs": (of(logprobs=True, top_logprobs=21), "top_logprobs", "the limit is 20"),
    "all logprobs": (of(prompt_logprobs=-1), "prompt_logprobs", "expected a whole number from 0 to 20"),
    "stops": (of(stop=["a"] * 5), "stop", "stop asks for 5 stop strings; the limit is 4"),
    "a long stop": (of(stop="a" * 201), "stop", "201 characters in one text; the limit is 200"),
    "bias": (of(logit_bias={str(n): 1 for n in range(301)}), "logit_bias", "301 entries; the limit is 300"),
    "bad words": (of(bad_words=["a" * 201]), "bad_words", "the limit is 200"),
    "messages": (of(messages=MESSAGES * 1025), "messages", "1025 messages; the limit is 1024"),
    "parts": (
        of(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 65}]),
        "messages",
        "65 parts in one message; the limit is 64",
    ),
    "a picture": (
        of(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}]}]),
        "messages",
        'a message has a part of type "image_url"; expected text',
    ),
    "tools": (of(tools=[{"type": "function", "function": {"name": "a"}}] * 33), "tools", "33 tools; the limit is 32"),
    "a tool's schema": (
        of(tools=[{"type": "function", "function": {"name": "a", "parameters": {"minItems": 10**9}}}]),
        "tools",
        "the limit is 1000",
    ),
    "minItems": (
        schema({"type": "array", "minItems": 1_000_000_000}),
        "response_format",
        "response_format asks for 1000000000 repetitions (minItems, maxLength and their like); the limit is 1000",
    ),
    "maxLength": (schema({"type": "string", "maxLength": 1001}), "response_format", "the limit is 1000"),
    "endless": (schema({"minItems": float("inf")}), "response_format", "more than 10^15"),
    "no number": (schema({"minimum": float("nan")}), "response_format", "more than 10^15"),
    "a huge range": (schema({"type": "integer", "maximum": 10**300}), "response_format", "more than 10^15"),
    "properties": (schema(many(201)), "response_format", "201 properties; the limit is 200"),
    "choices of properties": (schema(many(100, maxProperties=50)), "response_format", "5050 repetitions"),
    "a long schema": (schema({"enum": ["a" * 16_000]}), "response_format", "of JSON schemas; the limit is 16"),
    "a pattern": (schema({"pattern": "(a{1,100}){1,100}"}), "response_format", "10000 repetitions in a pattern"),
    "a named pattern": (schema({"patternProperties": {"a{999}": {}}}), "response_format", "999 repetitions"),
    "a long pattern": (schema({"pattern": "ab" * 251}), "response_format", "502 characters of patterns"),
    "structural tag": (of(response_format={"type": "structural_tag"}), "response_format", "expected one of text"),
    "regex": (of(structured_outputs={"regex": "((a{30}){30}){30}"}), "structured_outputs", "27000 repetitions"),
    "a long regex": (of(structured_outputs={"regex": "a" * 501}), "structured_outputs", "the limit is 500"),
    "grammar": (of(structured_outputs={"grammar": 'root ::= "a"'}), "structured_outputs", "expected one of choice"),
    "both in a regex": (
        of(structured_outputs={"regex": "(.{1,10}){1,10}" + ".*" * 6}),
        "structured_outputs",
        "700 repetitions",
    ),
    "choices in a regex": (of(structured_outputs={"regex": ".*" * 9}), "structured_outputs", "9 of * + ? | {"),
    "choices in patterns": (schema({"pattern": ".*" * 9}), "response_format", "9 of * + ? | { in patterns"),
    "anyOf": (schema({"anyOf": [{}] * 33}), "response_format", "33 entries of anyOf, oneOf and allOf"),
    "choice": (of(structured_outputs={"choice": ["a"] * 301}), "structured_outputs", "301 choices; the limit is 300"),
    "schema in a text": (of(structured_outputs={"json": '{"minItems": 1000000000}'}), "structured_outputs", "10000000"),
    "another structure": (of(structured_outputs={"structural_tag": "{}"}), "structured_outputs", "expected one of"),
    "beams": (of(use_beam_search=True), "use_beam_search", "'use_beam_search' is not accepted here; expected only"),
    "template": (of(chat_template="{{ 1 }}"), "chat_template", "is not accepted here"),
    "an id": (of(request_id="mine"), "request_id", "is not accepted here"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_hostile_request_asks_for_is_refused_with_the_limit(name: str):
    body, param, message = HOSTILE[name]
    began = time.process_time()
    with pytest.raises(Refusal) as refused:
        check(CHAT, read_body(json.dumps(body).encode(), LIMITS), LIMITS)
    assert time.process_time() - began < 1
    assert (refused.value.status, refused.value.param) == (400, param)
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is no JSON"),
        (b"[]", "the body is a JSON list; expected an object"),
        (b"\xff" * 1000, "the body is no JSON"),
        (b"[" * 1_000_000, "the body is nested too deep; the limit is 32 levels"),
        (b"", "the body is no JSON"),
        (b'{"n":' + b"9" * 5000 + b"}", "the body is no JSON"),
        (json.dumps(schema(deep(40))).encode(), "levels of lists and objects; the limit is 32"),
        (b"x" * 1_000_001, "the body has 1000001 bytes; the limit is 1000000"),
    ],
)
def test_a_body_that_is_none_is_refused(body: bytes, message: str):
    with pytest.raises(Refusal) as refused:
        read_body(body, LIMITS)
    assert message in refused.value.message


@pytest.mark.parametrize(
    "body",
    [
        of(),
        of(n=16, temperature=0.5, max_tokens=100_000, logprobs=True, top_logprobs=20, stop=["a"] * 4, top_k=5),
        of(messages=[{"role": "user", "content": [{"type": "text", "text": "why?"}]}], ignore_eos=True),
        schema(many(20, required=["p1"], additionalProperties=False)),
        schema({"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 9}}, "$ref": "#/$defs/n"}),
        schema({"type": "string", "pattern": r"^\d{4}-\d{2}$"}),
        of(response_format={"type": "json_object"}),
        of(structured_outputs={"choice": ["yes", "no"]}),
        of(n=None, stop=None, tools=None, response_format=None),
    ],
)
def test_what_an_honest_request_asks_for_passes(body: dict[str, Any]):
    assert check(CHAT, read_body(json.dumps(body).encode(), LIMITS), LIMITS) == (body.get("n") or 1)


@pytest.mark.parametrize(
    ("prompt", "n", "number"),
    [("why?", 2, 2), ([1, 2, 3], 1, 1), (["a", "b"], 3, 6), ([[1, 2], [3]], 1, 2), ([], 1, 1)],
)
def test_prompts_times_answers_are_counted(prompt: Any, n: int, number: int):
    assert check(TEXT, {"prompt": prompt, "n": n}, LIMITS) == number


def test_too_many_prompts_times_answers_are_refused():
    with pytest.raises(Refusal, match="prompt asks for 80 prompts times answers; the limit is 64"):
        check(TEXT, {"prompt": ["a"] * 8, "n": 10}, LIMITS)


def test_a_limit_of_tokens_is_there_for_those_who_set_one():
    with pytest.raises(Refusal, match="max_tokens asks for 101; the limit is 100"):
        check(CHAT, of(max_tokens=101), Limits(tokens=100))


def test_every_field_of_the_official_client_is_accepted():
    assert chat.CompletionCreateParamsBase.__annotations__.keys() | {"stream"} <= FIELDS[CHAT]
    assert completion.CompletionCreateParamsBase.__annotations__.keys() | {"stream"} <= FIELDS[TEXT]


def test_the_file_holds_the_limits_and_a_wrong_one_is_named(tmp_path):
    assert Limits.read() == LIMITS
    path = tmp_path / "limits.yaml"
    assert Limits.read(path) == LIMITS
    for text in ("answer: 3", "answers: 0", "answers: many"):
        path.write_text(text)
        with pytest.raises(
            InputError, match=r"limits.yaml: answers?: .* expected a positive whole number for one of ans"
        ):
            Limits.read(path)


def test_ten_thousand_hostile_requests_are_taken_or_refused_and_each_at_once():
    """The same that tests/soak/test_serving.py sends to a running endpoint."""
    limits, statuses, longest = Limits.read(), Counter[int](), 0.0
    for path, body in Hostile(seed=16).requests(10_000):
        began = time.process_time()
        try:
            check(path, read_body(body, limits), limits)
            statuses[200] += 1
        except Refusal as refusal:
            statuses[refusal.response().status_code] += 1
        longest = max(longest, time.process_time() - began)
    assert set(statuses) == {200, 400, 413}
    assert 1000 < statuses[400] < 9000  # most of the odd values are vLLM's own business
    assert longest < 1
