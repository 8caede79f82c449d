"""What goes wrong between a push and the Hub: which of it passes, how long to wait, and the sentence that is left.

huggingface_hub itself asks again where it sends files. Everything else - repositories, listings, commits, tags - it
asks once.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from stance.errors import InputError, Unreachable
from stance.models.hub import TransportError, is_busy, may_pass

logger = logging.getLogger(__name__)


PAUSES = (1.0, 3.0, 8.0)
LONGEST_PAUSE = 60.0
"""Seconds that the Hub may ask us to wait."""
PROBLEMS = (TransportError, HFValidationError, OSError, RuntimeError, ValueError)
"""What huggingface_hub raises: the last two for a storage that refuses and for an answer that makes no sense."""
SPENT = re.compile(r";r=0;t=(\d+)")
"""Of the header RateLimit: nothing remains, for so many seconds."""
XET_STATUS = re.compile(r"HTTP status \w+ error \((\d{3}) ")
"""Where hf_xet, whose errors are all ConnectionError, says what was answered."""
T = TypeVar("T")


def patiently(call: Callable[[], T]) -> T:
    """Ask again where huggingface_hub itself does not. Only for calls that may be repeated."""
    for pause in PAUSES:
        try:
            return call()
        except PROBLEMS as error:
            if not passes(error):
                raise
            wait(error, pause)
    return call()


def wait(error: Exception, pause: float) -> None:
    """Wait as long as the Hub asks, but no shorter than this; raise the error if that is too long."""
    if isinstance(error, HfHubHTTPError):
        pause = max(pause, _asked_for(error.response.headers))
    if pause > LONGEST_PAUSE:
        raise error
    logger.info("the Hub is busy or away (%s); trying again in %g s", _what(error), pause)
    time.sleep(pause)


def _asked_for(headers: Mapping[str, str]) -> float:
    """Return how many seconds the Hub wants to be left alone."""
    spent = SPENT.search(headers.get("RateLimit", ""))
    asked = spent[1] if spent else headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0


def status_of(error: Exception) -> int | None:
    """Return what the Hub answered; None if it did not."""
    if isinstance(error, HfHubHTTPError):
        return int(error.response.status_code)
    found = XET_STATUS.search(str(error)) if isinstance(error, ConnectionError) else None
    return int(found[1]) if found else None


def passes(error: Exception) -> bool:
    """May the same work later?"""
    status = status_of(error)
    # A proxy in between says in HTML that it is busy.
    return is_busy(status) if status else isinstance(error, JSONDecodeError) or may_pass(error)


def cause(error: Exception) -> Exception:
    """Return what is behind the RuntimeError that huggingface_hub makes of a file that cannot be stored."""
    behind = error.__cause__
    return behind if isinstance(error, RuntimeError) and isinstance(behind, TransportError) else error


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Make one sentence of whatever goes wrong with a repository."""
    try:
        yield
    except PROBLEMS as error:
        problem = cause(error)
        kind = Unreachable if passes(problem) else InputError
        raise kind(_sentence(problem, repo_id)) from None


def _sentence(error: Exception, repo_id: str) -> str:
    endpoint, status = constants.ENDPOINT, status_of(error)
    if status:
        said = error.server_message if isinstance(error, HfHubHTTPError) else None
        return _refusal(status, f": {said}" if said else "", repo_id)
    match error:
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set; unset it to push"
        case UnicodeEncodeError():  # no header can hold such a token
            return _refusal(401, "", repo_id)
        case HFValidationError():
            return f"the Hub takes no repository named {repo_id!r}; expected OWNER/NAME, as in its address"
    if passes(error):
        return (
            f"{endpoint} cannot be reached for {repo_id} ({_what(error)}); check the network, then run it again: "
            "what has arrived is not sent again"
        )
    return f"{repo_id} cannot be pushed ({_in_one_line(error)}); correct that, then run it again"


def _refusal(status: int, said: str, repo_id: str) -> str:
    endpoint = constants.ENDPOINT
    if status == 401:
        return f"{endpoint} does not accept your token; log in with `hf auth login`, or correct HF_TOKEN"
    if status == 403:
        return (
            f"your token may not write {repo_id}{said}; give it write access at {endpoint}/settings/tokens, or correct "
            "hub.adapter_repo_id and hub.merged_repo_id"
        )
    if is_busy(status):
        return f"{endpoint} answered {status} for {repo_id}; run it again later: what has arrived is not sent again"
    return f"{endpoint} refused {repo_id} with {status}{said}; correct that, then run it again"


def _what(error: Exception) -> str:
    """Return what kind of trouble it is, without the addresses and headers that its message may quote."""
    status = status_of(error)
    return f"status {status}" if status else type(error).__name__


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
