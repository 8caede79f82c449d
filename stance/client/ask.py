"""Asks the endpoint one question and shows the answer as it comes; or the base model's and the aligned one's, abreast.

    python -m stance ask "Is it worth seeing?"
    echo "Is it worth seeing?" | python -m stance ask -
    python -m stance ask --compare "Is it worth seeing?"

Standard output holds the answer and nothing else; who answers stands on standard error. The system prompt is the one
that the model was trained with.
"""

import asyncio
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from openai import AsyncOpenAI
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stance.client.endpoint import (
    INTERRUPTED,
    Endpoint,
    find_endpoint,
    messages,
    provenance,
    sentences,
    served,
    system_prompt,
    visible,
)
from stance.client.local import ALIGNED, BASE
from stance.data.chat import Message
from stance.errors import InputError, Unreachable

PER_SECOND = 12
"""Pictures of a comparison."""


async def answer(
    at: Endpoint, client: AsyncOpenAI, model: str, asked: list[Message], settings: Mapping[str, Any]
) -> AsyncGenerator[tuple[str, str | None], None]:
    """Yield the pieces of an answer as they come, the last with the reason why it ends.

    Raises:
        InputError: The endpoint refuses the question.
        Unreachable: It is down or busy, or the answer ends without a reason: its connection was cut.
    """
    given: Any = asked
    ended = None
    with sentences(at, model):
        stream = await client.chat.completions.create(model=model, messages=given, stream=True, **settings)
        async with stream:
            async for chunk in stream:
                if chunk.choices:
                    ended = chunk.choices[0].finish_reason
                    yield chunk.choices[0].delta.content or "", ended
    if not ended:
        raise Unreachable(f"the answer of {model} at {at.url} breaks off, or is none; ask again")


async def ask(at: Endpoint, model: str, asked: list[Message], settings: Mapping[str, Any]) -> str:
    """Write an answer to standard output as it comes; return why it ends."""
    ended = ""
    async with at.async_client() as client, aclosing(answer(at, client, model, asked, settings)) as pieces:
        async for text, reason in pieces:
            sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
            sys.stdout.flush()
            ended = reason or ended
    sys.stdout.write("\n")
    return ended


async def compare(
    at: Endpoint, names: tuple[str, str], asked: list[Message], settings: Mapping[str, Any], console: Console
) -> None:
    """Ask two models at the same time, and show both answers side by side as they come."""
    said = dict.fromkeys(names, "")

    async def follow(client: AsyncOpenAI, model: str) -> None:
        async with aclosing(answer(at, client, model, asked, settings)) as pieces:
            async for text, _ in pieces:
                said[model] += visible(text)

    shown = Live(console=console, get_renderable=lambda: side_by_side(said), refresh_per_second=PER_SECOND)
    async with at.async_client() as client:
        try:
            with shown:
                async with asyncio.TaskGroup() as group:
                    for model in names:
                        group.create_task(follow(client, model))
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None


def side_by_side(said: Mapping[str, str]) -> Table:
    """Return answers in columns of the same width."""
    table = Table.grid(expand=True)
    for _ in said:
        table.add_column(ratio=1)
    table.add_row(*(Panel(Text(text), title=name, title_align="left") for name, text in said.items()))
    return table


def require_both(at: Endpoint, names: tuple[str, str]) -> None:
    """Refuse a comparison where a model is not served."""
    there = served(at)
    if missing := [name for name in names if name not in there]:
        raise InputError(
            f"{at.url} serves {', '.join(there)} and not {' and '.join(missing)}; to compare, start the endpoint with "
            "`python -m stance serve --with-base`"
        )


def question(given: str) -> str:
    """Return the question, read from standard input where `-` stands for it."""
    if given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise InputError("standard input is not UTF-8; expected the question in that encoding") from None


def introduce(at: Endpoint, names: str, told: Mapping[str, Any]) -> None:
    """Say on standard error who answers."""
    release = f", release {told['release']}" if told.get("release") else ""
    print(visible(f"{names}{release}, at {at.url}"), file=sys.stderr, flush=True)


def arguments() -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(prog="python -m stance ask", description="Ask the endpoint of `make serve` a question.")
    parser.add_argument("question", help="the question, or - to read it from standard input")
    parser.add_argument("--model", default=ALIGNED, help="the name of a model that it serves (default: %(default)s)")
    system = parser.add_mutually_exclusive_group()
    system.add_argument("--system", help="the system prompt (default: the one that the model was trained with)")
    system.add_argument("--no-system", action="store_true", help="ask without a system prompt")
    parser.add_argument("--max-tokens", type=int, help="the most tokens of an answer (default: the endpoint's)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--compare", action="store_true", help="ask the base model as well, side by side")
    return parser.parse_args()


def talk(given: Namespace) -> None:
    """Do what the command line asks for."""
    at = find_endpoint()
    text = question(given.question)
    told = provenance(at)
    system = None if given.no_system else given.system or system_prompt(told)
    asked = messages(system, text)
    settings = {"temperature": given.temperature, "max_tokens": given.max_tokens}
    names = (BASE, given.model)
    if given.compare:
        require_both(at, names)
    introduce(at, " and ".join(names) if given.compare else given.model, told)
    if given.compare:
        asyncio.run(compare(at, names, asked, settings, Console()))
    elif asyncio.run(ask(at, given.model, asked, settings)) == "length":
        print("(cut off: the answer has reached its limit of tokens)", file=sys.stderr)


def main() -> None:
    """Ask: `python -m stance ask QUESTION`."""
    given = arguments()
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    try:
        talk(given)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # of `| head`; Python would complain about it once more when it closes the stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
