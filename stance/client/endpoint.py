"""The endpoint that `make serve` starts, as its clients see it: where it is, its key, and its errors in one sentence.

`OPENAI_BASE_URL` and `OPENAI_API_KEY` win, as in every program that uses the official client; without them it is the
endpoint of this machine, whose key `make serve` has written to a file.
"""

import ipaddress
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    DefaultAsyncHttpxClient,
    DefaultHttpxClient,
    OpenAI,
    OpenAIError,
)

from stance.client.local import KEY, STATE, VARIABLE
from stance.config.params import Params
from stance.data.chat import Message, conversation
from stance.errors import InputError, Unreachable
from stance.machine.files import read_json

URL = "http://127.0.0.1:8000/v1"
PATIENCE = 600.0
"""Seconds that an answer may let wait for itself: a long one on a busy CPU takes minutes."""
NONSENSE = (AttributeError, LookupError, TypeError, json.JSONDecodeError)
"""What the client runs into where a reply with status 200 is no reply of such an endpoint, like a login page."""
INTERRUPTED = 130
"""How a client ends that Ctrl+C has ended, as a shell expects."""
TOO_LONG = ("context length", "longer than", "max_model_len")
"""By which vLLM's refusals of what is too long are known: it has no code for them."""
KEPT = 300
"""Characters of a server's own words that are passed on."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and with which key; a `repr` does not show it."""

    url: str
    key: str = field(repr=False)
    origin: str
    """Where the key comes from, for people."""

    @property
    def here(self) -> bool:
        """Is it on this machine?"""
        return _loopback(self.url)

    def concealed(self, text: str) -> str:
        """Return a text without the key, which some servers repeat in their errors."""
        return text.replace(self.key, "(key)") if self.origin else text

    def client(self, max_retries: int = 2, timeout: float = PATIENCE) -> OpenAI:
        """Return the official client; a proxy is not asked for what is on this machine."""
        http = DefaultHttpxClient(trust_env=not self.here, verify=_certificates())
        return OpenAI(base_url=self.url, api_key=self.key, max_retries=max_retries, timeout=timeout, http_client=http)

    def async_client(self, max_retries: int = 2, timeout: float = PATIENCE) -> AsyncOpenAI:
        """Return the official client for asyncio."""
        http = DefaultAsyncHttpxClient(trust_env=not self.here, verify=_certificates())
        return AsyncOpenAI(
            base_url=self.url, api_key=self.key, max_retries=max_retries, timeout=timeout, http_client=http
        )


def find_endpoint(environment: Mapping[str, str] = os.environ, key: Path = KEY) -> Endpoint:
    """Return the endpoint that the environment names, or that of this machine.

    The key in the file is for this machine: it is not sent anywhere else.

    Raises:
        InputError: The address is none.
    """
    url = environment.get("OPENAI_BASE_URL", "").strip().rstrip("/") or _address(key.with_name(STATE.name))
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise InputError(f"OPENAI_BASE_URL is {url!r}; expected an address like {URL}")
    if given := environment.get("OPENAI_API_KEY", "").strip():
        return Endpoint(url, given, "OPENAI_API_KEY")
    if _loopback(url) and (given := environment.get(VARIABLE, "").strip()):
        return Endpoint(url, given, VARIABLE)
    try:
        if _loopback(url):
            return Endpoint(url, key.read_text(encoding="utf-8").strip(), str(key))
    except FileNotFoundError:
        pass  # an endpoint that was started without a key takes any
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{key} cannot be read ({error}); expected the endpoint's key") from None
    return Endpoint(url, "none", "")


def _address(state: Path) -> str:
    """Return where the endpoint of this folder is, or would be."""
    try:
        return str(read_json(state)["address"])
    except (OSError, ValueError, LookupError, TypeError):
        return URL


def served(at: Endpoint) -> list[str]:
    """Return the names of the models that an endpoint serves.

    Raises:
        InputError: It does not say.
        Unreachable: It is down or busy.
    """
    with sentences(at), at.client() as client:
        found: Any = client.get("/models", cast_to=object)
        return [str(model["id"]) for model in found["data"]]


def provenance(at: Endpoint) -> dict[str, Any]:
    """Return what an endpoint says of the run that made its model; nothing of an endpoint that does not know.

    Raises:
        Unreachable: It is down.
    """
    address = f"{at.url.removesuffix('/v1')}/provenance"
    try:
        with at.client(max_retries=0) as client:
            found: Any = client.get(address, cast_to=object)
    except (APIStatusError, json.JSONDecodeError):
        return {}
    except OpenAIError as error:
        raise explained(error, at) from None
    return found if isinstance(found, dict) else {}


def system_prompt(told: Mapping[str, Any]) -> str:
    """Return the system prompt that the model was trained with: that of its run, or else of `params.yaml`.

    Args:
        told: What the endpoint says of its model's run.
    """
    try:
        return str(told["params"]["model"]["system_prompt"])
    except (KeyError, TypeError):
        return Params.load().model.system_prompt


def messages(system: str | None, question: str) -> list[Message]:
    """Return the conversation that asks a question, with a system prompt or without.

    Raises:
        InputError: There is no question, or it is not text.
    """
    if not question.strip():
        raise InputError("the question is empty; expected one, like: python -m stance ask 'Is it worth seeing?'")
    found = conversation(system, question) if system else [{"role": "user", "content": question}]
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError("the question is not UTF-8; expected text in that encoding") from None
    return found


def visible(text: str) -> str:
    """Return a text without the control characters by which a model could steer a terminal."""
    return "".join(char for char in text if char in "\n\t" or char >= " " and not "\x7f" <= char <= "\x9f")


@contextmanager
def sentences(at: Endpoint, model: str | None = None) -> Iterator[None]:
    """Let what the client raises become one sentence.

    Args:
        at: The endpoint that is asked.
        model: The model that is asked, if one is.

    Raises:
        InputError: The request or the address is wrong.
        Unreachable: The endpoint is down or busy.
    """
    try:
        yield
    except (OpenAIError, httpx2.HTTPError, *NONSENSE) as error:
        raise explained(error, at, model) from None


def explained(error: Exception, at: Endpoint, model: str | None = None) -> InputError:
    """Return an error of the client as a sentence: what was found, and what to do."""
    if isinstance(error, APIStatusError):
        return _refused(error, at, model)
    if isinstance(error, APITimeoutError | httpx2.TimeoutException):
        return Unreachable(f"{at.url} took too long to answer; ask again, or for fewer tokens with --max-tokens")
    if isinstance(error, APIConnectionError) and isinstance(error.__cause__, httpx2.ConnectError):
        return Unreachable(f"nothing answers at {at.url}; {_start(at)}")
    if isinstance(error, APIConnectionError | httpx2.HTTPError):
        return Unreachable(f"{at.url} broke off in the middle of an answer; ask again")
    if isinstance(error, OpenAIError):  # an error that arrives inside a stream, after its status
        return Unreachable(f"{at.url} gave up in the middle of an answer ({own_words(error, at)}); ask again")
    return InputError(f"{at.url} gives no answer of an OpenAI-style endpoint; {_start(at)}")


def own_words(error: Exception, at: Endpoint) -> str:
    """Return what a server said, on one line and without the key."""
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    return at.concealed(" ".join(visible(str(said or error)).split()))[:KEPT]


def _refused(error: APIStatusError, at: Endpoint, model: str | None) -> InputError:
    status, words = error.status_code, own_words(error, at)
    if status in (401, 403):
        return InputError(f"{at.url} does not take {_key(at)}")
    if status == 404 and model and (names := _names(at)) and model not in names:
        return InputError(f"{at.url} does not serve {model!r}; expected one of {', '.join(names)}")
    if status == 404:
        return InputError(f"{at.url} is no OpenAI-style endpoint ({words}); {_start(at)}")
    if status == 413 or status == 400 and any(word in words for word in TOO_LONG):
        return InputError(f"the question and its answer are too long for the model ({words}); shorten them")
    if status == 429 or status >= 500:
        return Unreachable(f"{at.url} is too busy or ill (status {status}: {words}); ask again later")
    return InputError(f"{at.url} refuses the request (status {status}: {words}); correct it")


def _names(at: Endpoint) -> list[str]:
    try:
        return served(at)
    except InputError:
        return []  # the sentence does without


def _key(at: Endpoint) -> str:
    if at.origin == "OPENAI_API_KEY":
        return f"the key in OPENAI_API_KEY; correct it, or unset it where {KEY} holds the key of `make serve`"
    if at.origin:
        return f"the key in {at.origin}; start the endpoint again with `make serve`, which writes it"
    return f"a request without a key; set OPENAI_API_KEY, or run this where `make serve` has written {KEY}"


def _start(at: Endpoint) -> str:
    return "start it with `make serve`" if at.here else "check OPENAI_BASE_URL"


@cache
def _certificates() -> ssl.SSLContext:
    return httpx2.create_ssl_context()  # 30 ms, which every client would spend anew


def _loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
