"""The endpoint as its clients see it: its address, its key, and its errors as one sentence each.

The variables `OPENAI_BASE_URL` and `OPENAI_API_KEY` name the endpoint, as they do for every program that uses OpenAI's
client. If they are not set, the endpoint of this folder is meant: `make serve` writes its address and its key to files.
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
TIMEOUT = 600.0
"""Seconds until a request is given up. A long answer on a busy CPU takes minutes."""
WRONG_REPLY = (AttributeError, LookupError, TypeError, json.JSONDecodeError)
"""Errors of the client if a reply with status 200 is not a reply of such an endpoint, for example a login page."""
INTERRUPTED = 130
"""The exit code of a client after Ctrl+C, as a shell expects it."""
TOO_LONG = ("context length", "longer than", "max_model_len")
"""Words in vLLM's refusal of a text that is too long. vLLM has no error code for it."""
MESSAGE_LIMIT = 300
"""Characters of a server's own message that are shown."""


@dataclass(frozen=True)
class Endpoint:
    """An address and a key. `repr` does not show the key."""

    url: str
    key: str = field(repr=False)
    key_source: str
    """Where the key comes from: a variable or a file. Empty if there is no key."""

    @property
    def is_local(self) -> bool:
        """Return whether the endpoint is on this machine."""
        return _is_loopback(self.url)

    def without_key(self, text: str) -> str:
        """Return a text without the key; some servers repeat it in their errors."""
        return text.replace(self.key, "(key)") if self.key_source else text

    def client(self, max_retries: int = 2, timeout: float = TIMEOUT) -> OpenAI:
        """Return OpenAI's client; it uses no proxy for an endpoint on this machine."""
        http = DefaultHttpxClient(trust_env=not self.is_local, verify=_certificates())
        return OpenAI(base_url=self.url, api_key=self.key, max_retries=max_retries, timeout=timeout, http_client=http)

    def async_client(self, max_retries: int = 2, timeout: float = TIMEOUT) -> AsyncOpenAI:
        """Return OpenAI's client for asyncio."""
        http = DefaultAsyncHttpxClient(trust_env=not self.is_local, verify=_certificates())
        return AsyncOpenAI(
            base_url=self.url, api_key=self.key, max_retries=max_retries, timeout=timeout, http_client=http
        )


def find_endpoint(environment: Mapping[str, str] = os.environ, key_file: Path = KEY) -> Endpoint:
    """Return the endpoint that the environment names; by default the endpoint of this folder.

    The key in the file belongs to this machine. It is never sent to another machine.

    Raises:
        InputError: The address is not a URL, or the key cannot be read.
    """
    url = environment.get("OPENAI_BASE_URL", "").strip().rstrip("/") or _address(key_file.with_name(STATE.name))
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise InputError(f"OPENAI_BASE_URL is {url!r}; expected an address like {URL}")
    if key := environment.get("OPENAI_API_KEY", "").strip():
        return Endpoint(url, key, "OPENAI_API_KEY")
    if _is_loopback(url) and (key := environment.get(VARIABLE, "").strip()):
        return Endpoint(url, key, VARIABLE)
    try:
        if _is_loopback(url):
            return Endpoint(url, key_file.read_text(encoding="utf-8").strip(), str(key_file))
    except FileNotFoundError:
        pass  # an endpoint that was started without a key accepts any key
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{key_file} cannot be read ({error}); expected the endpoint's key: remove it and start `make serve` again"
        ) from None
    return Endpoint(url, "none", "")


def _address(state: Path) -> str:
    """Return the address of this folder's endpoint; the default address if it is not up."""
    try:
        return str(read_json(state)["address"])
    except (OSError, ValueError, LookupError, TypeError):
        return URL


def model_names(endpoint: Endpoint) -> list[str]:
    """Return the names of the models that an endpoint serves.

    Raises:
        InputError: The reply is not that of an OpenAI-style endpoint.
        Unreachable: The endpoint is down or busy.
    """
    with explaining(endpoint), endpoint.client() as client:
        reply: Any = client.get("/models", cast_to=object)
        return [str(model["id"]) for model in reply["data"]]


def provenance(endpoint: Endpoint) -> dict[str, Any]:
    """Return what an endpoint says about the run that made its model; empty if the endpoint does not say it.

    Raises:
        Unreachable: The endpoint is down.
    """
    address = f"{endpoint.url.removesuffix('/v1')}/provenance"
    try:
        with endpoint.client(max_retries=0) as client:
            reply: Any = client.get(address, cast_to=object)
    except (APIStatusError, json.JSONDecodeError):
        return {}
    except OpenAIError as error:
        raise explanation(error, endpoint) from None
    return reply if isinstance(reply, dict) else {}


def system_prompt(run: Mapping[str, Any]) -> str:
    """Return the system prompt that the model was trained with.

    Args:
        run: The endpoint's provenance. If it has no system prompt, the one in `params.yaml` is returned.
    """
    try:
        return str(run["params"]["model"]["system_prompt"])
    except (KeyError, TypeError):
        return Params.load().model.system_prompt


def messages(system: str | None, question: str) -> list[Message]:
    """Return the conversation that asks a question, with or without a system prompt.

    Raises:
        InputError: The question is empty, or is not text.
    """
    if not question.strip():
        raise InputError("the question is empty; expected for example: python -m stance ask 'Is it worth seeing?'")
    turns = conversation(system, question) if system else [{"role": "user", "content": question}]
    try:
        json.dumps(turns, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError("the question is not UTF-8; write it in this encoding") from None
    return turns


def printable(text: str) -> str:
    """Return a text without control characters; with these a model could control the terminal."""
    return "".join(char for char in text if char in "\n\t" or char >= " " and not "\x7f" <= char <= "\x9f")


@contextmanager
def explaining(endpoint: Endpoint, model: str | None = None) -> Iterator[None]:
    """Turn errors of the client into errors with one sentence.

    Args:
        endpoint: The endpoint that is asked.
        model: The model that is asked, if any.

    Raises:
        InputError: The request or the address is wrong.
        Unreachable: The endpoint is down or busy.
    """
    try:
        yield
    except (OpenAIError, httpx2.HTTPError, *WRONG_REPLY) as error:
        raise explanation(error, endpoint, model) from None


def explanation(error: Exception, endpoint: Endpoint, model: str | None = None) -> InputError:
    """Return an error that says in one sentence what went wrong, and what to do."""
    url = endpoint.url
    if isinstance(error, APIStatusError):
        return _refusal(error, endpoint, model)
    if isinstance(error, APITimeoutError | httpx2.TimeoutException):
        return Unreachable(f"{url} took too long to answer; ask again, or limit the answer with --max-tokens")
    if isinstance(error, APIConnectionError) and isinstance(error.__cause__, httpx2.ConnectError):
        return Unreachable(f"nothing answers at {url}; {_start(endpoint)}")
    if isinstance(error, APIConnectionError | httpx2.HTTPError):
        return Unreachable(f"the connection to {url} broke in the middle of an answer; ask again")
    if isinstance(error, OpenAIError):  # an error inside a stream, after its status
        return Unreachable(f"{url} failed in the middle of an answer ({server_message(error, endpoint)}); ask again")
    return InputError(f"the reply of {url} is not that of an OpenAI-style endpoint; {_start(endpoint)}")


def server_message(error: Exception, endpoint: Endpoint) -> str:
    """Return a server's own message, on one line and without the key."""
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    return endpoint.without_key(" ".join(printable(str(message or error)).split()))[:MESSAGE_LIMIT]


def _refusal(error: APIStatusError, endpoint: Endpoint, model: str | None) -> InputError:
    url, status, message = endpoint.url, error.status_code, server_message(error, endpoint)
    if status in (401, 403):
        return InputError(f"{url} does not accept {_key(endpoint)}")
    if status == 404 and model and (names := _names(endpoint)) and model not in names:
        return InputError(f"{url} does not serve {model!r}; expected one of {', '.join(names)}")
    if status == 404:
        return InputError(f"{url} is not an OpenAI-style endpoint ({message}); {_start(endpoint)}")
    if status == 413 or status == 400 and any(words in message for words in TOO_LONG):
        return InputError(f"the question and its answer are too long for the model ({message}); shorten them")
    if status == 429 or status >= 500:
        return Unreachable(f"{url} is busy or has a problem (status {status}: {message}); ask again later")
    return InputError(f"{url} refuses the request (status {status}: {message}); correct it")


def _names(endpoint: Endpoint) -> list[str]:
    try:
        return model_names(endpoint)
    except InputError:
        return []  # the error is then explained without the names


def _key(endpoint: Endpoint) -> str:
    if endpoint.key_source == "OPENAI_API_KEY":
        return f"the key in OPENAI_API_KEY; correct it, or unset it if {KEY} holds the key of `make serve`"
    if endpoint.key_source:
        return f"the key in {endpoint.key_source}; start the endpoint again with `make serve`, which writes it"
    return f"a request without a key; set OPENAI_API_KEY, or type this in the folder where `make serve` wrote {KEY}"


def _start(endpoint: Endpoint) -> str:
    return "start it with `make serve`" if endpoint.is_local else "check OPENAI_BASE_URL"


@cache
def _certificates() -> ssl.SSLContext:
    return httpx2.create_ssl_context()  # takes 30 ms, which every client would spend again


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
