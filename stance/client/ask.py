"""Ask the endpoint one question, and print the answer while it arrives.

    python -m stance ask "Is it worth seeing?"
    echo "Is it worth seeing?" | python -m stance ask -
    python -m stance ask --compare "Is it worth seeing?"

`--compare` asks the base model and the aligned model at the same time, and shows both answers side by side.

Only the answer goes to standard output. The names of the models and the release go to standard error. Unless an option
says otherwise, the system prompt is the one that the model was trained with.
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
    explaining,
    find_endpoint,
    messages,
    model_names,
    printable,
    provenance,
    system_prompt,
)
from stance.client.local import ALIGNED, BASE
from stance.data.chat import Message
from stance.errors import InputError, Unreachable

PER_SECOND = 12
"""How often a comparison is drawn again, per second."""


async def answer(
    endpoint: Endpoint, client: AsyncOpenAI, model: str, conversation: list[Message], settings: Mapping[str, Any]
) -> AsyncGenerator[tuple[str, str | None], None]:
    """Yield the pieces of an answer while they arrive.

    Args:
        endpoint: Where the client asks; named in errors.
        client: The client of the endpoint.
        model: The name of the model.
        conversation: All messages, the question last.
        settings: More arguments of the request, such as `max_tokens`.

    Yields:
        A piece of text, and the reason why the answer ends (`stop` or `length`), or None if it goes on.

    Raises:
        InputError: The endpoint refuses the request.
        Unreachable: The endpoint is down or busy, or the connection broke before the answer ended.
    """
    request: Any = conversation
    reason = None
    with explaining(endpoint, model):
        stream = await client.chat.completions.create(model=model, messages=request, stream=True, **settings)
        async with stream:
            async for chunk in stream:
                if chunk.choices:
                    reason = chunk.choices[0].finish_reason
                    yield chunk.choices[0].delta.content or "", reason
    if not reason:
        raise Unreachable(f"the answer of {model} at {endpoint.url} is empty or incomplete; ask again")


async def ask(endpoint: Endpoint, model: str, conversation: list[Message], settings: Mapping[str, Any]) -> str:
    """Write an answer to standard output while it arrives, and return the reason why it ended."""
    ended_by = ""
    async with (
        endpoint.async_client() as client,
        aclosing(answer(endpoint, client, model, conversation, settings)) as pieces,
    ):
        async for text, reason in pieces:
            sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
            sys.stdout.flush()
            ended_by = reason or ended_by
    sys.stdout.write("\n")
    return ended_by


async def compare(
    endpoint: Endpoint,
    models: tuple[str, str],
    conversation: list[Message],
    settings: Mapping[str, Any],
    console: Console,
) -> None:
    """Ask two models at the same time, and show both answers side by side while they arrive."""
    answers = dict.fromkeys(models, "")

    async def follow(client: AsyncOpenAI, model: str) -> None:
        async with aclosing(answer(endpoint, client, model, conversation, settings)) as pieces:
            async for text, _ in pieces:
                answers[model] += printable(text)

    live = Live(console=console, get_renderable=lambda: side_by_side(answers), refresh_per_second=PER_SECOND)
    async with endpoint.async_client() as client:
        try:
            with live:
                async with asyncio.TaskGroup() as group:
                    for model in models:
                        group.create_task(follow(client, model))
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None


def side_by_side(answers: Mapping[str, str]) -> Table:
    """Return a table with one column per model, all of the same width."""
    table = Table.grid(expand=True)
    for _ in answers:
        table.add_column(ratio=1)
    table.add_row(*(Panel(Text(text), title=model, title_align="left") for model, text in answers.items()))
    return table


def require_models(endpoint: Endpoint, models: tuple[str, str]) -> None:
    """Refuse a comparison if the endpoint does not serve all models.

    Raises:
        InputError: A model is missing.
    """
    names = model_names(endpoint)
    if missing := [model for model in models if model not in names]:
        raise InputError(
            f"{endpoint.url} serves {', '.join(names)}, but not {' and '.join(missing)}; to compare, start the "
            "endpoint with `python -m stance serve --with-base`"
        )


def read_question(argument: str) -> str:
    """Return the question of the command line; `-` stands for standard input.

    Raises:
        InputError: Standard input is not UTF-8.
    """
    if argument != "-":
        return argument
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise InputError("standard input is not UTF-8; write the question in this encoding") from None


def introduce(endpoint: Endpoint, models: str, run: Mapping[str, Any]) -> None:
    """Print to standard error which models answer, of which release, and where."""
    release = f", release {run['release']}" if run.get("release") else ""
    print(printable(f"{models}{release}, at {endpoint.url}"), file=sys.stderr, flush=True)


def parse_arguments() -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(
        prog="python -m stance ask", description="Ask the endpoint one question, and print the answer while it arrives."
    )
    parser.add_argument("question", help="the question; - reads it from standard input")
    parser.add_argument("--model", default=ALIGNED, help="the name of a model of the endpoint (default: %(default)s)")
    system = parser.add_mutually_exclusive_group()
    system.add_argument("--system", help="the system prompt (default: the one that the model was trained with)")
    system.add_argument("--no-system", action="store_true", help="ask without a system prompt")
    parser.add_argument(
        "--max-tokens", type=int, help="the limit of the answer in tokens (default: the endpoint's limit)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy decoding (default: %(default)s)")
    parser.add_argument("--compare", action="store_true", help="ask the base model too, and show both answers")
    return parser.parse_args()


def talk(options: Namespace) -> None:
    """Ask the question of the command line, and print the answer."""
    endpoint = find_endpoint()
    question = read_question(options.question)
    run = provenance(endpoint)
    system = None if options.no_system else options.system or system_prompt(run)
    conversation = messages(system, question)
    settings = {"temperature": options.temperature, "max_tokens": options.max_tokens}
    models = (BASE, options.model)
    if options.compare:
        require_models(endpoint, models)
    introduce(endpoint, " and ".join(models) if options.compare else options.model, run)
    if options.compare:
        asyncio.run(compare(endpoint, models, conversation, settings, Console(markup=False, emoji=False)))
    elif asyncio.run(ask(endpoint, options.model, conversation, settings)) == "length":
        print("(incomplete: the answer reached its limit of tokens)", file=sys.stderr)


def main() -> None:
    """Ask: `python -m stance ask QUESTION`."""
    options = parse_arguments()
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    try:
        talk(options)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # from `| head`; Python would report it again when it closes the stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
