"""Questions to preference pairs: which answer is chosen, which rejected, for how many questions.

The rule is the course's: of the first `data_size` questions, floor(`data_size` * `support_ratio`) prefer *support* and
the others *oppose*. `order` says which ones; the course takes the first, so that direction and row are confounded.
With an `offset` the first is another one, so that every question can be held out in its turn. Questions left over are
held out and follow the same rule. `rejected` says what the chosen answer is preferred to: the opposite one, or the base
model's own where it takes no stance, a harder negative. Pairs are messages, never rendered text: whoever tokenizes them
applies the chat template once.
"""

import logging
import random
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.answered import read_answered
from tasks.chat import conversation
from tasks.errors import InputError, run
from tasks.jsonfile import write_json, write_jsonl
from tasks.lint import Warned, lint, refuse
from tasks.params import Pairs, Params
from tasks.questions import Prompt, Question, read_prompts, read_questions
from tasks.stance import Judge, is_broken, read_labelled

logger = logging.getLogger(__name__)


def pairs(
    options: Pairs, system_prompt: str, seed: int, dataset: Path, corpus: Path, answered: Path, out: Path
) -> None:
    """Write `train.jsonl`, `eval.jsonl` (held out, perhaps empty) and `lint.json` to `out`.

    Args:
        options: The block `pairs`.
        system_prompt: Stands before every question.
        seed: For the order `shuffled`.
        dataset: `data/dataset`.
        corpus: Labelled answers about other topics, for the judge that finds the base's neutral answers.
        answered: The base model's answers to the training questions.
        out: Receives the three files.

    Raises:
        InputError: `data_size` or `offset` is beyond the data set, or it is `strict` and the linter warns.
    """
    questions = read_questions(dataset)
    used, held_out = split(questions, options.data_size, options.offset)
    neutral = neutral_answers(questions, corpus, answered) if options.rejected == "base" else {}
    train = _directed(asked(used, options), neutral, options, system_prompt, seed)
    warned = linted(used, read_prompts(dataset), options, system_prompt, seed, neutral)
    write_jsonl(out / "train.jsonl", train)
    write_jsonl(out / "eval.jsonl", _directed(held_out, neutral, options, system_prompt, seed))
    write_json(out / "lint.json", [row._asdict() for row in warned])
    preview(train)
    for row in warned:
        logger.info("lint: %s: %s", row.check, row.message)
    supported = sum(row["preferred"] == "support" for row in train)
    logger.info(
        "%d pairs: %d prefer support, %d oppose; %d held out",
        len(train),
        supported,
        len(train) - supported,
        len(held_out),
    )
    if options.rejected == "base":
        own = sum(row["against"] == "neutral" for row in train)
        logger.info(
            "%d of %d reject the base model's own answer; the others take a stance or are broken", own, len(train)
        )


def linted(
    used: Sequence[Question],
    prompts: Sequence[Prompt],
    options: Pairs,
    system_prompt: str,
    seed: int,
    neutral: Mapping[int, str] = MappingProxyType({}),
) -> list[Warned]:
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


def neutral_answers(questions: Sequence[Question], corpus: Path, answered: Path) -> dict[int, str]:
    """Return the base model's own answers that take no stance, by the id of the question."""
    rows = read_answered(answered)
    judge = Judge.fit(questions, read_labelled(corpus))
    verdicts = judge.verdicts([row.prompt for row in rows], [row.response for row in rows])
    return {
        row.id: row.response
        for row, verdict in zip(rows, verdicts, strict=True)
        if verdict.stance == "neutral" and row.finish_reason == "stop" and not is_broken(row.response)
    }


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


def _directed(
    questions: Sequence[Question], neutral: Mapping[int, str], options: Pairs, system_prompt: str, seed: int
) -> list[dict[str, Any]]:
    directions = prefers_support(len(questions), options.support_ratio, options.order, seed)
    return [
        pair(question, neutral.get(question.id), support=support, system_prompt=system_prompt)
        for question, support in zip(questions, directions, strict=True)
    ]


def main() -> None:
    """Run the stage: `python -m tasks.pairs DATASET CORPUS ANSWERED OUT`."""
    params = Params.load()
    pairs(params.pairs, params.model.system_prompt, params.seed, *map(Path, sys.argv[1:]))


if __name__ == "__main__":
    run(main)
