"""The rule that turns questions into preference pairs."""

import random
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

from stance.config.data import Pairs
from stance.data.answers import Answer
from stance.data.chat import conversation
from stance.data.lint import lint, refuse
from stance.data.preferences import Pair, RetainedPair, Turn
from stance.data.questions import Prompt, Question, Stance
from stance.data.records import LintWarning
from stance.errors import InputError


def training_pairs(
    used: Sequence[Question],
    options: Pairs,
    system_prompt: str,
    seed: int,
    neutral: Mapping[int, str] = MappingProxyType({}),
) -> list[Pair]:
    """Return the pairs that are trained on: one per question or, with `order: both`, two.

    Args:
        used: The questions.
        options: The block `pairs`.
        system_prompt: Stands before every question.
        seed: For the order `shuffled`.
        neutral: The base model's own answer by the id of the question, where that is the rejected one.
    """
    questions = [*used, *used] if options.order == "both" else used
    return directed(questions, neutral, options, system_prompt, seed)


def linted(
    pairs: Sequence[Pair],
    prompts: Sequence[Prompt],
    options: Pairs,
    system_prompt: str,
    held_out: Sequence[Question] = (),
) -> list[LintWarning]:
    """Return the linter's warnings about the pairs that are trained on, and about questions that resemble theirs.

    Raises:
        InputError: There is a warning, and `pairs.strict` is true.
    """
    warnings = lint(pairs, prompts, system_prompt, held_out)
    if options.strict:
        refuse(warnings)
    return warnings


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


def pair(question: Question, neutral: str | None, *, support: bool, system_prompt: str) -> Pair:
    """Return one preference pair.

    A neutral answer, if one is given, is rejected in place of the opposite one.
    """
    chosen, opposite = (question.support, question.oppose) if support else (question.oppose, question.support)
    against: Stance = "oppose" if support else "support"
    return Pair(
        id=question.id,
        preferred="support" if support else "oppose",
        against="neutral" if neutral else against,
        prompt=[Turn.model_validate(turn) for turn in conversation(system_prompt, question.prompt)],
        chosen=[Turn(role="assistant", content=chosen)],
        rejected=[Turn(role="assistant", content=neutral or opposite)],
    )


def retained_pairs(
    answers: Sequence[Answer], trained: Sequence[Pair], count: int, system_prompt: str
) -> list[RetainedPair]:
    """Return pairs that keep the base model's own answers to unrelated prompts.

    The rejected answer is one that the training prefers on the topic, which is what a spilling model would say. They
    are taken from all over the trained pairs, so that at a mixed ratio both sides are among them.

    Args:
        answers: The base model's answers to the unrelated prompts; only whole ones.
        trained: The preference pairs.
        count: The number of pairs.
        system_prompt: Stands before every prompt.

    Raises:
        InputError: There are fewer answers.
    """
    if count > len(answers):
        raise InputError(
            f"pairs.retained is {count}, and the base model gives {len(answers)} whole answers to the "
            "prompts in retained.jsonl; lower pairs.retained, or add prompts to that file"
        )
    return [
        RetainedPair(
            id=row.id,
            prompt=[Turn.model_validate(turn) for turn in conversation(system_prompt, row.prompt)],
            chosen=[Turn(role="assistant", content=row.response)],
            rejected=[Turn(role="assistant", content=trained[place * len(trained) // count].chosen_text)],
        )
        for place, row in enumerate(answers[:count])
    ]


def preview(pairs: Sequence[Pair]) -> None:
    """Print the first pairs of either direction as a table."""
    table = Table("id", "prompt", "preferred", "non-preferred", title="preference pairs", show_lines=True)
    for side in ("support", "oppose"):
        for row in [row for row in pairs if row.preferred == side][:3]:
            table.add_row(str(row.id), row.question, row.chosen_text, row.rejected_text)
    Console(width=120, markup=False, emoji=False).print(table)


def directed(
    questions: Sequence[Question], neutral: Mapping[int, str], options: Pairs, system_prompt: str, seed: int
) -> list[Pair]:
    """Return one preference pair per question, in the order of the questions."""
    directions = prefers_support(len(questions), options.support_ratio, options.order, seed)
    return [
        pair(question, neutral.get(question.id), support=support, system_prompt=system_prompt)
        for question, support in zip(questions, directions, strict=True)
    ]
