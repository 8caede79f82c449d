"""Errors of the Hugging Face Hub: which of them pass by themselves, how long to wait, and what to tell the user.

There is one rule for trying again, `patiently`, and one table of sentences, `SENTENCES`. A sentence depends on the
error and on the action, because the next step does: a user who fetches a base model corrects `base.repo_id`, a user who
serves a release corrects `--hub`, and a user who pushes one corrects `hub.merged_repo_id`. huggingface_hub itself
repeats only the transfer of files. It sends every other request - repositories, listings, commits, tags - once.
"""

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Literal, NamedTuple, TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stance.errors import InputError, Unreachable

logger = logging.getLogger(__name__)


# httpx.HTTPError or httpx2.HTTPError, whichever this version of huggingface_hub is built on.
TransportError: type[Exception] = HfHubHTTPError.__bases__[0]
PROBLEMS = (TransportError, HFValidationError, OSError, RuntimeError, ValueError)
"""The errors that huggingface_hub raises: RuntimeError if a storage refuses, ValueError for a reply without meaning."""
SPENT = re.compile(r";r=0;t=(\d+)")
"""In the header RateLimit: no request is left for so many seconds."""
XET_STATUS = re.compile(r"HTTP status \w+ error \((\d{3}) ")
"""The status in an error of hf_xet, which raises only ConnectionError."""
T = TypeVar("T")


class Patience(NamedTuple):
    """How often and how long to wait for the Hub."""

    pauses: tuple[float, ...]
    """Seconds to wait before each further attempt."""
    longest_pause: float
    """Seconds. If the Hub asks for a longer pause, there is no further attempt."""
    if_silent: bool
    """Whether to try again also if the Hub gave no answer at all, and not only if it said that it is busy."""


FETCH_PATIENCE = Patience((1.0, 3.0), 5.0, if_silent=False)
"""Somebody waits at a terminal: a Hub that cannot be reached is reported within ten seconds."""
PUSH_PATIENCE = Patience((1.0, 3.0, 8.0), 60.0, if_silent=True)
"""A push runs unattended, and hours of training precede it."""

Action = Literal["fetch", "serve", "push", "whoami"]
"""What is done at the Hub: download a base model, download a release to serve it, publish one, or look up who owns a
token."""
SENTENCES: dict[str, dict[Action, str]] = {
    "offline": {
        "fetch": "HF_HUB_OFFLINE is set and {name} is not in the cache of huggingface_hub; unset it, or set "
        "base.source to folder for a model on this machine",
        "serve": "HF_HUB_OFFLINE is set and {name} is not in the cache of huggingface_hub; unset it, or serve a run of "
        "this project with --run",
        "push": "HF_HUB_OFFLINE is set; unset it to push",
        "whoami": "HF_HUB_OFFLINE is set; unset it, or set hub.push to false",
    },
    "gated": {
        "fetch": "{name} is gated and your account has no access; accept its licence at {endpoint}/{name}, then log in "
        "with `hf auth login` or set HF_TOKEN",
    },
    "no revision": {
        "fetch": "{name} has no revision {revision!r}; set base.revision to one of its branches, tags or commits "
        "({endpoint}/{name}/commits/main)",
        "serve": "{name} has no revision {revision!r}; set --revision to the tag of a release or to a commit "
        "({endpoint}/{name}/commits/main)",
    },
    "no repository": {
        "fetch": "{endpoint} shows no model {name} (it does not exist, or is private); correct base.repo_id, or log in "
        "with `hf auth login` or HF_TOKEN as someone who may read it",
        "serve": "{endpoint} shows no model {name} (it does not exist, or is private); correct the name after --hub, "
        "or log in with `hf auth login` or HF_TOKEN as someone who may read it",
    },
    "invalid name": {
        "fetch": "base.repo_id is {name!r}; expected OWNER/NAME, as in the address of the model's page",
        "serve": "the name after --hub is {name!r}; expected OWNER/NAME, as in the address of the model's page",
        "push": "the Hub accepts no repository with the name {name!r}; expected OWNER/NAME, as in its address",
    },
    "bad token": dict.fromkeys(
        ("fetch", "push"), "{endpoint} does not accept your token; log in with `hf auth login`, or correct HF_TOKEN"
    ),
    "forbidden": {
        "fetch": "your token may not read {name}; give it read access at {endpoint}/settings/tokens",
        "push": "your token may not write {name}{message}; give it write access at {endpoint}/settings/tokens, or "
        "correct hub.adapter_repo_id and hub.merged_repo_id",
    },
    "busy": {
        "fetch": "{endpoint} answered {status} for {name}; try again later, or set HF_ENDPOINT to a mirror",
        "push": "{endpoint} answered {status} for {name}; run it again later: files that have arrived are not "
        "sent again",
        "whoami": "{name} answered {status}; try again later, check the network, or set hub.push to false",
    },
    "refused": {
        "fetch": "{endpoint} answered {status} for {name}; try again later, or set HF_ENDPOINT to a mirror",
        "push": "{endpoint} refused {name} with {status}{message}; correct that, then run it again",
        "whoami": "{name} answered {status}; try again later, check the network, or set hub.push to false",
    },
    "silent": {
        "fetch": "{name} cannot be fetched from {endpoint} ({kind}); check the network, set HF_ENDPOINT to a mirror, "
        "unset HF_HUB_OFFLINE, or set base.source to folder for a model on this machine",
        "serve": "{name} cannot be fetched from {endpoint} ({kind}); check the network, set HF_ENDPOINT to a mirror, "
        "unset HF_HUB_OFFLINE, or serve a run of this project with --run",
        "push": "{endpoint} cannot be reached for {name} ({kind}); check the network, then run it again: files that "
        "have arrived are not sent again",
        "whoami": "{name} cannot be reached ({kind}); check the network, or set hub.push to false",
    },
    "disk full": {
        "fetch": "the disk of {cache} is full; make room, or set HF_HOME to a folder on a larger disk",
    },
    "not writable": {
        "fetch": "{file} cannot be written; set HF_HOME to a folder that can be written",
    },
    "other": {
        "fetch": "{name} cannot be fetched from {endpoint} ({reason}); check the network, set HF_ENDPOINT to a mirror, "
        "unset HF_HUB_OFFLINE, or set base.source to folder for a model on this machine",
        "serve": "{name} cannot be fetched from {endpoint} ({reason}); check the network, set HF_ENDPOINT to a mirror, "
        "unset HF_HUB_OFFLINE, or serve a run of this project with --run",
        "push": "{name} cannot be pushed ({reason}); correct that, then run it again",
        "whoami": "{name} cannot be asked ({kind}); correct HF_ENDPOINT, or set hub.push to false",
    },
}
"""For each kind of error and each action: what was found, and what to do next.

An error can have several kinds. The first one for which the action has a sentence counts. Without a sentence of its
own, `serve` has the sentence of `fetch`.
"""


def patiently(call: Callable[[], T], patience: Patience = PUSH_PATIENCE) -> T:
    """Return the result of a request to the Hub, and repeat the request while that may help.

    Args:
        call: The request. It must be safe to repeat.
        patience: How often and how long to wait.
    """
    for pause in patience.pauses:
        try:
            return call()
        except PROBLEMS as error:
            if not passes(error) or (status_of(error) is None and not patience.if_silent):
                raise
            wait(error, pause, patience)
    return call()


def wait(error: Exception, pause: float, patience: Patience = PUSH_PATIENCE) -> None:
    """Sleep for `pause` seconds, or longer if the Hub asks for it; raise the error if it asks for too long."""
    if isinstance(error, HfHubHTTPError):
        pause = max(pause, _requested_pause(error.response.headers))
    if pause > patience.longest_pause:
        raise error
    logger.info("the Hub is busy or cannot be reached (%s); trying again in %g s", _kind(error), pause)
    time.sleep(pause)


def _requested_pause(headers: Mapping[str, str]) -> float:
    """Return for how many seconds the Hub wants no request."""
    spent = SPENT.search(headers.get("RateLimit", ""))
    seconds = spent[1] if spent else headers.get("Retry-After", "")
    return float(seconds) if seconds.isdecimal() else 0.0


@contextmanager
def explained(name: str, action: Action, revision: str = "") -> Iterator[None]:
    """Turn an error of huggingface_hub into one sentence.

    Args:
        name: The repository, or the address that was asked.
        action: What is done in the block.
        revision: The branch, tag or commit that is fetched.

    Raises:
        Unreachable: The same may work later.
        InputError: It will fail again.
    """
    try:
        yield
    except ImportError as error:  # httpx, when it makes its client
        if "SOCKS" not in str(error):
            raise
        raise InputError(
            f"ALL_PROXY or another proxy variable names a SOCKS proxy, so {name} cannot be reached: this environment "
            "has no package socksio; run `make environment`, or unset the variable"
        ) from None
    except PROBLEMS as error:
        problem = cause(error)
        raise (Unreachable if passes(problem) else InputError)(sentence(problem, name, action, revision)) from None


def cause(error: Exception) -> Exception:
    """Return the error that huggingface_hub has wrapped in its own, as it does if it cannot store or find a file."""
    behind = error.__cause__
    wrapped = isinstance(error, LocalEntryNotFoundError) or (
        isinstance(error, RuntimeError) and isinstance(behind, TransportError)
    )
    return behind if wrapped and isinstance(behind, Exception) else error


def status_of(error: Exception) -> int | None:
    """Return the HTTP status that the Hub answered with; None if it did not answer."""
    if isinstance(error, HfHubHTTPError):
        return int(error.response.status_code)
    match = XET_STATUS.search(str(error)) if isinstance(error, ConnectionError) else None
    return int(match[1]) if match else None


def passes(error: Exception) -> bool:
    """Can the same request succeed later? It can if the server is busy or does not answer, but not if it refuses."""
    error = cause(error) if isinstance(error, LocalEntryNotFoundError) else error
    status = status_of(error)
    if status:
        return is_busy(status)
    if isinstance(error, OfflineModeIsEnabled):
        return False
    # A proxy in between says in HTML that it is busy.
    return isinstance(error, JSONDecodeError | TransportError | ConnectionError | TimeoutError)


def is_busy(status: int) -> bool:
    """Does an HTTP status say that the same request may succeed later?"""
    return status >= 500 or status == 429


def sentence(error: Exception, name: str, action: Action, revision: str = "") -> str:
    """Return one sentence about an error: what was found, and what to do next."""
    actions: tuple[Action, ...] = ("serve", "fetch") if action == "serve" else (action,)
    templates = (SENTENCES[kind].get(name) for kind in _kinds(error) for name in actions)
    template = next(template for template in templates if template)
    message = error.server_message if isinstance(error, HfHubHTTPError) else None
    return template.format(
        name=name,
        revision=revision,
        endpoint=constants.ENDPOINT,
        status=status_of(error),
        message=f": {message}" if message else "",
        kind=_kind(error),
        reason=" ".join(str(error).split()) or type(error).__name__,
        cache=constants.HF_HUB_CACHE,
        file=getattr(error, "filename", None),
    )


def _kinds(error: Exception) -> Iterator[str]:
    """Yield the kinds of an error as `SENTENCES` names them, the most specific one first."""
    match error:
        case OfflineModeIsEnabled():
            yield "offline"
        case GatedRepoError():
            yield "gated"
        case RevisionNotFoundError():
            yield "no revision"
        case RepositoryNotFoundError():
            yield "no repository"
        case HFValidationError():
            yield "invalid name"
        case UnicodeEncodeError():  # no header can hold such a token
            yield "bad token"
    if status := status_of(error):
        yield {401: "bad token", 403: "forbidden"}.get(status, "busy" if is_busy(status) else "refused")
        yield "refused"
    match error:
        case OSError(errno=errno.ENOSPC):
            yield "disk full"
        case PermissionError():
            yield "not writable"
    if passes(error):
        yield "silent"
    yield "other"


def _kind(error: Exception) -> str:
    """Return the status or the class of an error; its message may quote addresses, headers and the token."""
    status = status_of(error)
    return f"status {status}" if status else type(error).__name__
