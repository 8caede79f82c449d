"""Ask the endpoint every question of a file: `python -m stance batch prompts.jsonl answers.jsonl`.

Each answer is appended as soon as it arrives. So no answer is lost, however the program ends. If the same command is
started again, it asks only the questions that have no answer yet. If a row fails, its error is written in its place,
and the other rows go on. `stance/client/batchfile.py` describes both files.
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

from stance.client.batchfile import Request, encoded, read_requests, resume, sort_answers
from stance.client.endpoint import (
    INTERRUPTED,
    Endpoint,
    explanation,
    find_endpoint,
    model_names,
    provenance,
    server_message,
    system_prompt,
)
from stance.client.local import ALIGNED
from stance.errors import InputError, Unreachable

logger = logging.getLogger(__name__)


RETRIES = 5
"""Tries after the first. OpenAI's client waits half a second, then twice as long each time, or as the server says."""
FAILURES = 8
"""If the endpoint fails this many rows in a row, the batch stops. It is at least the number of requests at once."""
LOG_INTERVAL = 10.0
"""Seconds between two lines about the progress, if there is no terminal."""


class Tally:
    """How many rows of a batch have an answer, and how many failed."""

    def __init__(self, total: int, answered: int) -> None:
        """Start with the rows that an earlier batch answered."""
        self.total, self.written, self.failed = total, answered, 0
        self.failures_in_a_row = 0
        """Rows that the endpoint failed since its last answer."""
        self._began, self._answered_before = time.monotonic(), answered

    def count(self, row: dict[str, Any]) -> None:
        """Count a row."""
        self.written += 1
        self.failed += row["error"] is not None
        self.failures_in_a_row = self.failures_in_a_row + 1 if _is_endpoints_fault(row) else 0

    def __str__(self) -> str:
        """Return the numbers, and the seconds that are left."""
        rate = (self.written - self._answered_before) / (time.monotonic() - self._began)
        left = f", {rate:.1f}/s, {(self.total - self.written) / rate:.0f} s left" if rate else ""
        return f"{self.written} of {self.total} rows, {self.failed} failed{left}"


def batch(endpoint: Endpoint, requests: Sequence[Request], out: Path, concurrency: int) -> None:
    """Ask every request that has no answer yet; then sort the answers in the order of the requests.

    Args:
        endpoint: The endpoint.
        requests: All requests, with their models.
        out: The file of answers. If an earlier batch left one, it is continued.
        concurrency: How many requests are open at the same time.

    Raises:
        InputError: The file belongs to other requests, or rows failed.
        Unreachable: The endpoint went away. All answers so far are kept.
    """
    with opened(out) as file:
        answered = resume(file, out, requests)
        tally = Tally(len(requests), len(answered))
        unanswered = [request for request in requests if request.custom_id not in answered]
        logger.info("%d rows to ask, %d answered before", len(unanswered), len(answered))
        with progress(tally) as show:
            asyncio.run(ask_all(endpoint, unanswered, file, concurrency, tally, show))
        sort_answers(out, requests)
    logger.info("%s", tally)
    if tally.failed:
        raise InputError(
            f"{tally.failed} of {tally.total} rows failed, and {out} says why; run the same command again to ask "
            "only these"
        )


@contextmanager
def opened(out: Path) -> Iterator[BinaryIO]:
    """Open a file of answers, and lock it against other processes.

    Raises:
        InputError: Another batch has it open.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another batch is writing {out}; wait until it ends, or name another file") from None
        yield file


async def ask_all(
    endpoint: Endpoint,
    requests: Sequence[Request],
    file: BinaryIO,
    concurrency: int,
    tally: Tally,
    show: Callable[[], None],
) -> None:
    """Ask requests, `concurrency` of them at the same time, and append each row as soon as it arrives."""
    queue = iter(requests)

    async def work(client: AsyncOpenAI) -> None:
        for request in queue:
            row = await ask(endpoint, client, request)
            file.write(encoded(row))
            file.flush()
            tally.count(row)
            show()
            _require_health(endpoint, tally, row, concurrency)

    async with endpoint.async_client(max_retries=RETRIES) as client:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(requests))):
                    group.create_task(work(client))
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None


async def ask(endpoint: Endpoint, client: AsyncOpenAI, request: Request) -> dict[str, Any]:
    """Return the row of a request, with its answer or its error."""
    response: Any = None
    error = None
    try:
        reply = await client.post("/chat/completions", cast_to=httpx2.Response, body=request.body)
        response = _response(endpoint, reply)
        if not _is_completion(response["body"]):
            error = {"code": "no_answer", "message": "the reply is not a chat completion"}
    except APIStatusError as refusal:
        response = _response(endpoint, refusal.response)
        error = {"code": f"status_{refusal.status_code}", "message": server_message(refusal, endpoint)}
    except APITimeoutError as timeout:
        error = {"code": "timeout", "message": str(explanation(timeout, endpoint))}
    except (APIConnectionError, httpx2.HTTPError):
        error = {"code": "connection", "message": f"the connection to {endpoint.url} broke or could not be made"}
    return {"id": request.ident, "custom_id": request.custom_id, "response": response, "error": error}


def _response(endpoint: Endpoint, reply: httpx2.Response) -> dict[str, Any]:
    try:
        body = json.loads(endpoint.without_key(reply.text))
    except (ValueError, RecursionError):
        body = None
    return {"status_code": reply.status_code, "request_id": reply.headers.get("x-request-id"), "body": body}


def _is_completion(body: Any) -> bool:
    try:
        return isinstance(body["choices"][0]["message"], dict)
    except (LookupError, TypeError):
        return False


def _is_endpoints_fault(row: dict[str, Any]) -> bool:
    """Return whether another row would have failed in the same way."""
    code = row["error"]["code"] if row["error"] else ""
    return code == "connection" or code.startswith("status_5") or code in ("status_401", "status_403", "status_429")


def _require_health(endpoint: Endpoint, tally: Tally, row: dict[str, Any], concurrency: int) -> None:
    """Stop the batch if the endpoint fails every request, instead of failing thousands of rows one by one."""
    code = row["error"]["code"] if row["error"] else ""
    if code in ("status_401", "status_403") or tally.failures_in_a_row >= max(FAILURES, concurrency):
        raise Unreachable(
            f"{endpoint.url} stopped answering ({row['error']['message']}) after {tally.written - tally.failed} of "
            f"{tally.total} rows; when it is up, run the same command again: all answers are kept"
        )


@contextmanager
def progress(tally: Tally) -> Iterator[Callable[[], None]]:
    """Show the progress of a batch: a bar on a terminal, otherwise a line every few seconds.

    Yields:
        A function to be called after each row.
    """
    if not sys.stderr.isatty():
        yield _lines(tally)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False, emoji=False)) as bar:
        task = bar.add_task("", total=tally.total, completed=tally.written, failed=0)
        yield lambda: bar.update(task, completed=tally.written, failed=tally.failed)


def _lines(tally: Tally) -> Callable[[], None]:
    logged_at = time.monotonic()

    def show() -> None:
        nonlocal logged_at
        if time.monotonic() - logged_at > LOG_INTERVAL:
            logged_at = time.monotonic()
            logger.info("%s", tally)

    return show


def completed(endpoint: Endpoint, requests: Sequence[Request], options: Namespace) -> list[Request]:
    """Return requests with the model, the system prompt and the limit that their rows do not have.

    Raises:
        InputError: A row names a model that the endpoint does not serve.
    """
    system = system_prompt(provenance(endpoint)) if any(request.is_plain for request in requests) else None
    model, always = options.model or ALIGNED, options.model is not None
    complete = [request.completed(model, always, system, options.max_tokens) for request in requests]
    names = model_names(endpoint)
    if unknown := {request.body["model"] for request in complete} - set(names):
        raise InputError(
            f"{endpoint.url} does not serve {', '.join(sorted(unknown))}; it serves {', '.join(names)}: name one of "
            "these for all rows with --model"
        )
    return complete


def parse_arguments() -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(
        prog="python -m stance batch",
        description="Ask the endpoint every question of a file. A batch that was interrupted goes on where it ended.",
    )
    parser.add_argument("prompts", type=Path, help='JSON lines: OpenAI batch requests, or {"id": 1, "prompt": "..."}')
    parser.add_argument("answers", type=Path, help="the file to write: JSON lines in the format of OpenAI's batch API")
    parser.add_argument("--model", help=f"ask this model in every row (default: the row's model, otherwise {ALIGNED})")
    parser.add_argument("--concurrency", type=int, default=16, help="requests at the same time (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, help="the limit of an answer in tokens, for rows without a limit")
    options = parser.parse_args()
    for name, value in (("--concurrency", options.concurrency), ("--max-tokens", options.max_tokens)):
        if value is not None and value < 1:
            parser.error(f"{name} is {value}; expected 1 or more")
    return options


def main() -> None:
    """Ask: `python -m stance batch PROMPTS ANSWERS`."""
    options = parse_arguments()
    requests = read_requests(options.prompts)
    endpoint = find_endpoint()
    try:
        batch(endpoint, completed(endpoint, requests, options), options.answers, options.concurrency)
    except OSError as error:
        raise InputError(f"{options.answers} cannot be written ({error}); all answers so far are kept") from None
    except KeyboardInterrupt:
        print("stopped; run the same command again: all answers are kept", file=sys.stderr)
        sys.exit(INTERRUPTED)
