"""The rule that turns questions into preference pairs."""

import random
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table

from stance.config.data import Pairs
from stance.data.chat import conversation
from stance.data.lint import lint, refuse
from stance.data.questions import Prompt, Question
from stance.data.records import LintWarning
from stance.errors import InputError


def linted(
    used: Sequence[Question],
    prompts: Sequence[Prompt],
    options: Pairs,
    system_prompt: str,
    seed: int,
    neutral: Mapping[int, str] = MappingProxyType({}),
) -> list[LintWarning]:
    """Return what the pairs that are trained on may teach besides the stance; `neutral` as `lint` has it.

    Raises:
        InputError: There is something, and it is `strict`.
    """
    directions = prefers_support(len(asked(used, options)), options.support_ratio, options.order, seed)
    warned = lint(used, prompts, directions, system_prompt, neutral)
    if options.strict:
        refuse(warned)
    return warned


def asked(used: Sequence[Question], options: Pairs) -> Sequence[Question]:
    """Return the question of every pair that is trained on."""
    return [*used, *used] if options.order == "both" else used


def split(questions: Sequence[Question], data_size: int, offset: int) -> tuple[Sequence[Question], Sequence[Question]]:
    """Return the `data_size` questions to train on, from that at `offset` on and around the end, and those held out."""
    for name, value, most in (("data_size", data_size, len(questions)), ("offset", offset, len(questions) - 1)):
        if value > most:
            raise InputError(
                f"pairs.{name} is {value} and the data set has {len(questions)} questions; set it to at most {most}"
            )
    turned = [*questions[offset:], *questions[:offset]]
    return turned[:data_size], turned[data_size:]


def prefers_support(count: int, support_ratio: Decimal, order: str, seed: int) -> list[bool]:
    """Return for each of `count` pairs whether *support* is the chosen answer.

    The number of them is floor(`count` * `support_ratio`) in decimal arithmetic: 0.29 of 100 is 29, not 28.
    """
    supported = int(count * support_ratio)
    if order == "interleaved":
        return [(row + 1) * supported // count > row * supported // count for row in range(count)]
    directions = [row < supported for row in range(count)]
    if order == "shuffled":
        random.Random(seed).shuffle(directions)
    return directions


def pair(question: Question, neutral: str | None, *, support: bool, system_prompt: str) -> dict[str, Any]:
    """Return one preference pair in TRL's conversational format, with the stance it prefers and the one it rejects.

    A neutral answer, if one is given, is rejected in place of the opposite one.
    """
    chosen, opposite = (question.support, question.oppose) if support else (question.oppose, question.support)
    against = "oppose" if support else "support"
    return {
        "id": question.id,
        "preferred": "support" if support else "oppose",
        "against": "neutral" if neutral else against,
        "prompt": conversation(system_prompt, question.prompt),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": neutral or opposite}],
    }


def preview(rows: Sequence[dict[str, Any]]) -> None:
    """Print the first pairs of either direction as a table."""
    table = Table("id", "prompt", "preferred", "non-preferred", title="preference pairs", show_lines=True)
    shown = [row for side in ("support", "oppose") for row in [r for r in rows if r["preferred"] == side][:3]]
    for row in shown:
        question, chosen, rejected = row["prompt"][-1], row["chosen"][0], row["rejected"][0]
        table.add_row(str(row["id"]), question["content"], chosen["content"], rejected["content"])
    Console(width=120).print(table)


def directed(
    questions: Sequence[Question], neutral: Mapping[int, str], options: Pairs, system_prompt: str, seed: int
) -> list[dict[str, Any]]:
    """Return one preference pair per question, in the order of the questions."""
    directions = prefers_support(len(questions), options.support_ratio, options.order, seed)
    return [
        pair(question, neutral.get(question.id), support=support, system_prompt=system_prompt)
        for question, support in zip(questions, directions, strict=True)
    ]
