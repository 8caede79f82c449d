"""Asks the endpoint every question of a file: `python -m stance batch prompts.jsonl answers.jsonl`.

Answers are appended as they come, so that whatever ends the program loses none: started again it asks only what has no
answer yet. A row that fails is written as such and disturbs no other. What the files hold:
`stance/client/batchfile.py`.
"""

import asyncio
import fcntl
import json
import logging
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stance.client.batchfile import Request, encoded, read_requests, settle, take_up
from stance.client.endpoint import (
    INTERRUPTED,
    Endpoint,
    explained,
    find_endpoint,
    own_words,
    provenance,
    served,
    system_prompt,
)
from stance.client.local import ALIGNED
from stance.errors import InputError, Unreachable

logger = logging.getLogger(__name__)


RETRIES = 5
"""Tries after the first, by the client itself: after half a second, then after twice that, or as the server says."""
ILL = 8
"""Rows one after another, or as many as are on their way, that the endpoint fails before it is given up."""
LOGGED = 10.0
"""Seconds between two lines about the progress where there is no terminal."""


class Tally:
    """How far a batch is."""

    def __init__(self, total: int, done: int) -> None:
        """Begin with what an earlier run has done."""
        self.total, self.done, self.failed = total, done, 0
        self.ill = 0
        """Rows that the endpoint has failed since it answered last."""
        self.begun, self.before = time.monotonic(), done

    def count(self, row: dict[str, Any]) -> None:
        """Take a row into account."""
        self.done += 1
        self.failed += row["error"] is not None
        self.ill = self.ill + 1 if _of_the_endpoint(row) else 0

    def __str__(self) -> str:
        """Say it, with the seconds that are left."""
        rate = (self.done - self.before) / (time.monotonic() - self.begun)
        left = f", {rate:.1f}/s, {(self.total - self.done) / rate:.0f} s left" if rate else ""
        return f"{self.done} of {self.total} rows, {self.failed} failed{left}"


def batch(at: Endpoint, requests: Sequence[Request], out: Path, concurrency: int) -> None:
    """Ask what has no answer yet, and leave one row per request in the order of the requests.

    Args:
        at: The endpoint.
        requests: What to ask, complete.
        out: File of answers; an earlier run's is gone on with.
        concurrency: Requests on their way at once.

    Raises:
        InputError: The file belongs to something else, or rows failed.
        Unreachable: The endpoint went away; what was answered is kept.
    """
    with opened(out) as file:
        done = take_up(file, out, requests)
        tally = Tally(len(requests), len(done))
        todo = [request for request in requests if request.custom_id not in done]
        logger.info("%d rows to ask, %d answered before", len(todo), len(done))
        with progress(tally) as show:
            asyncio.run(ask_all(at, todo, file, concurrency, tally, show))
        settle(out, requests)
    logger.info("%s", tally)
    if tally.failed:
        raise InputError(
            f"{tally.failed} of {tally.total} rows failed; {out} says why; run the same command again to ask these only"
        )


@contextmanager
def opened(out: Path) -> Iterator[BinaryIO]:
    """Open a file of answers for this process only."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another batch is writing {out}; wait for it, or name another file") from None
        yield file


async def ask_all(
    at: Endpoint, todo: Sequence[Request], file: BinaryIO, concurrency: int, tally: Tally, show: Callable[[], None]
) -> None:
    """Ask requests, a bounded number at once, and append every row as it comes."""
    waiting = iter(todo)

    async def work(client: AsyncOpenAI) -> None:
        for request in waiting:
            row = await ask(at, client, request)
            file.write(encoded(row))
            file.flush()
            tally.count(row)
            show()
            _require_health(at, tally, row, concurrency)

    async with at.async_client(max_retries=RETRIES) as client:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(todo))):
                    group.create_task(work(client))
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None


async def ask(at: Endpoint, client: AsyncOpenAI, request: Request) -> dict[str, Any]:
    """Return the row of a request: its answer, or why there is none."""
    response: Any = None
    error = None
    try:
        reply = await client.post("/chat/completions", cast_to=httpx2.Response, body=request.body)
        response = _response(at, reply)
        if not _complete(response["body"]):
            error = {"code": "no_answer", "message": "the reply is no chat completion"}
    except APIStatusError as refused:
        response = _response(at, refused.response)
        error = {"code": f"status_{refused.status_code}", "message": own_words(refused, at)}
    except APITimeoutError as late:
        error = {"code": "timeout", "message": str(explained(late, at))}
    except (APIConnectionError, httpx2.HTTPError):
        error = {"code": "connection", "message": f"the connection to {at.url} broke, or there was none"}
    return {"id": request.ident, "custom_id": request.custom_id, "response": response, "error": error}


def _response(at: Endpoint, reply: httpx2.Response) -> dict[str, Any]:
    try:
        body = json.loads(at.concealed(reply.text))
    except (ValueError, RecursionError):
        body = None
    return {"status_code": reply.status_code, "request_id": reply.headers.get("x-request-id"), "body": body}


def _complete(body: Any) -> bool:
    try:
        return isinstance(body["choices"][0]["message"], dict)
    except (LookupError, TypeError):
        return False


def _of_the_endpoint(row: dict[str, Any]) -> bool:
    """Say whether any other row might have failed in the same way."""
    code = row["error"]["code"] if row["error"] else ""
    return code == "connection" or code.startswith("status_5") or code in ("status_401", "status_403", "status_429")


def _require_health(at: Endpoint, tally: Tally, row: dict[str, Any], concurrency: int) -> None:
    """Stop where the endpoint fails whatever it is asked, rather than fail thousands of rows one by one."""
    code = row["error"]["code"] if row["error"] else ""
    if code in ("status_401", "status_403") or tally.ill >= max(ILL, concurrency):
        raise Unreachable(
            f"{at.url} answers no more ({row['error']['message']}) after {tally.done - tally.failed} of {tally.total} "
            "rows; once it does, run the same command again: what was answered is kept"
        )


@contextmanager
def progress(tally: Tally) -> Iterator[Callable[[], None]]:
    """Show how far a batch is: a bar on a terminal, a line now and then elsewhere; gives what is called after a row."""
    if not sys.stderr.isatty():
        yield _lines(tally)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=tally.total, completed=tally.done, failed=0)
        yield lambda: bar.update(task, completed=tally.done, failed=tally.failed)


def _lines(tally: Tally) -> Callable[[], None]:
    said = time.monotonic()

    def show() -> None:
        nonlocal said
        if time.monotonic() - said > LOGGED:
            said = time.monotonic()
            logger.info("%s", tally)

    return show


def completed(at: Endpoint, requests: Sequence[Request], given: Namespace) -> list[Request]:
    """Return requests with the model, the system prompt and the bound that their rows leave open.

    Raises:
        InputError: A row asks for a model that the endpoint does not serve.
    """
    system = system_prompt(provenance(at)) if any(request.plain for request in requests) else None
    model, always = given.model or ALIGNED, given.model is not None
    asked = [request.completed(model, always, system, given.max_tokens) for request in requests]
    names = served(at)
    if unknown := {request.body["model"] for request in asked} - set(names):
        raise InputError(
            f"{at.url} does not serve {', '.join(sorted(unknown))} but {', '.join(names)}; name one of these for all "
            "rows with --model"
        )
    return asked


def arguments() -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(prog="python -m stance batch", description="Ask the endpoint every question of a file.")
    parser.add_argument("prompts", type=Path, help='JSON lines: OpenAI batch requests, or {"id": 1, "prompt": "..."}')
    parser.add_argument("answers", type=Path, help="JSON lines, as OpenAI's batch API returns them")
    parser.add_argument("--model", help=f"asked for every row (default: the row's own, else {ALIGNED})")
    parser.add_argument("--concurrency", type=int, default=16, help="requests at once (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, help="the most tokens of an answer where a row does not say")
    given = parser.parse_args()
    for name, value in (("--concurrency", given.concurrency), ("--max-tokens", given.max_tokens)):
        if value is not None and value < 1:
            parser.error(f"{name} is {value}; expected 1 or more")
    return given


def main() -> None:
    """Ask: `python -m stance batch PROMPTS ANSWERS`."""
    given = arguments()
    requests = read_requests(given.prompts)
    at = find_endpoint()
    try:
        batch(at, completed(at, requests, given), given.answers, given.concurrency)
    except OSError as error:
        raise InputError(f"{given.answers} cannot be written ({error}); what was answered is kept") from None
    except KeyboardInterrupt:
        print("stopped; run the same command again: what was answered is kept", file=sys.stderr)
        sys.exit(INTERRUPTED)
