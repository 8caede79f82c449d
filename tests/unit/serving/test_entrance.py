"""What passes the entrance of an engine, and what the official client makes of the rest."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from stance.serving import keys
from stance.serving.middleware import PRIVATE
from tests.doubles.vllm import OWNER_KEY, RELEASE, Double, serving

MESSAGES: list[Any] = [{"role": "user", "content": "why?"}]
HEADERS = {"authorization": f"Bearer {OWNER_KEY}"}


@pytest.fixture
def up(tmp_path, monkeypatch):
    with serving(tmp_path, monkeypatch) as double:
        yield double


def ask(client: openai.OpenAI, **fields: Any) -> str | None:
    return client.chat.completions.create(model="aligned", messages=MESSAGES, **fields).choices[0].message.content


def test_an_honest_request_reaches_the_engine_as_it_was_sent(up: Double):
    assert ask(up.client(), n=2, extra_body={"top_k": 3}) == "yes"
    assert up.bodies == [{"model": "aligned", "messages": MESSAGES, "n": 2, "top_k": 3}]
    assert [model.id for model in up.client().models.list()] == ["aligned"]
    assert up.client().completions.create(model="aligned", prompt=["a", "b"]).choices[0].text == "yes"


def test_the_list_of_models_tells_no_folder_of_the_machine(up: Double):
    answer = httpx.get(f"{up.root}/v1/models", headers=HEADERS)
    assert [model["root"] for model in answer.json()["data"]] == ["aligned"]
    assert "/home" not in answer.text
    assert answer.headers["x-release"] == RELEASE


@pytest.mark.parametrize(
    ("refused", "act", "param", "code", "message"),
    [
        (openai.AuthenticationError, lambda up: ask(up.client("wrong")), None, "invalid_api_key", "ask whoever runs"),
        (openai.BadRequestError, lambda up: ask(up.client(), n=10_000), "n", 400, "the limit is 16"),
        (
            openai.BadRequestError,
            lambda up: ask(up.client(), extra_body={"use_beam_search": True}),
            "use_beam_search",
            "unknown_parameter",
            "is not accepted here",
        ),
        (openai.NotFoundError, lambda up: up.client().embeddings.create(model="a", input="b"), None, 404, "no path"),
        (openai.NotFoundError, lambda up: up.client().models.retrieve("aligned"), None, 404, "/v1/models/aligned"),
        (openai.APIStatusError, lambda up: up.client().get("/completions", cast_to=object), None, 405, "expected POST"),
        (openai.APIStatusError, lambda up: up.client().post("/models", cast_to=object), None, 405, "expected GET"),
    ],
)  # fmt: skip
def test_a_refusal_is_the_exception_of_the_official_client(up, refused, act, param, code, message):
    with pytest.raises(refused, match=message) as raised:
        act(up)
    assert (raised.value.param, raised.value.code) == (param, str(code))
    assert raised.value.type in ("invalid_request_error", "authentication_error")
    assert raised.value.body.keys() == {"message", "type", "param", "code"}
    assert raised.value.response.headers["x-release"] == RELEASE
    assert up.bodies == []


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff" * 1000, b"[" * 100_000, b'"a"', b"null"])
def test_a_body_that_is_no_object_is_a_bad_request(up: Double, body: bytes):
    answer = httpx.post(f"{up.root}/v1/chat/completions", content=body, headers=HEADERS)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_beyond_the_limit_is_not_read_to_its_end(up: Double):
    answer = httpx.post(f"{up.root}/v1/chat/completions", content=b"x" * 1_000_001, headers=HEADERS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, 413)


def test_a_key_is_asked_for_before_a_body_is_looked_at(up: Double):
    answer = httpx.post(f"{up.root}/v1/chat/completions", content=b"{")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_no_page_of_the_engine_is_open_but_those_that_are_named(up: Double):
    for path in (
        "/docs",
        "/version",
        "/openapi.json",
        "/v1/load_lora_adapter",
        "/v1/models/",
        "/v1/chat/completions/batch",
    ):
        assert httpx.get(f"{up.root}{path}", headers=HEADERS).status_code == 404
    assert httpx.get(f"{up.root}/health").status_code == 200
    assert httpx.get(f"{up.root}/metrics").text == "vllm: 1"
    assert httpx.get(f"{up.root}/provenance").json() == {"release": RELEASE}
    assert httpx.get(f"{up.root}/v1/models").status_code == 401


def test_private_pages_ask_for_a_key(tmp_path, monkeypatch):
    monkeypatch.setenv(PRIVATE, "1")
    with serving(tmp_path, monkeypatch) as up:
        for path in ("/metrics", "/provenance"):
            assert httpx.get(f"{up.root}{path}").status_code == 401
            assert httpx.get(f"{up.root}{path}", headers=HEADERS).status_code == 200
        assert httpx.get(f"{up.root}/health").status_code == 200


def test_a_key_that_has_its_share_is_told_so_while_others_are_served(up: Double):
    ada, bob = keys.add("ada", 2), keys.add("bob", 2)
    up.seconds = 1.0
    with ThreadPoolExecutor() as pool:
        running = pool.submit(ask, up.client(ada), n=2)
        while not up.bodies:
            pass
        with pytest.raises(openai.RateLimitError, match="the key ada has 2 answers running") as refused:
            ask(up.client(ada))
        assert (refused.value.code, refused.value.response.headers["retry-after"]) == ("too_many_at_once", "1")
        assert ask(up.client(bob)) == "yes"
        assert ask(up.client()) == "yes"
        assert running.result() == "yes"
    assert ask(up.client(ada)) == "yes"
    keys.revoke("ada")
    with pytest.raises(openai.AuthenticationError, match="revoked"):
        ask(up.client(ada))
