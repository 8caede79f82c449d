"""Questions to preference pairs: which answer is chosen, which rejected, for how many questions.

The rule is the course's: of the first `data_size` questions, floor(`data_size` * `support_ratio`) prefer *support* and
the others *oppose*. `order` says which ones; the course takes the first, so that direction and row are confounded.
With an `offset` the first is another one, so that every question can be held out in its turn. Questions left over are
held out and follow the same rule. Pairs are messages, never rendered text: whoever tokenizes them applies the chat
template once.
"""

import logging
import random
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.chat import conversation
from tasks.errors import InputError, run
from tasks.jsonfile import write_json, write_jsonl
from tasks.lint import lint, refuse
from tasks.params import Pairs, Params
from tasks.questions import Question, read_prompts, read_questions

logger = logging.getLogger(__name__)


def pairs(options: Pairs, system_prompt: str, seed: int, dataset: Path, out: Path) -> None:
    """Write `train.jsonl`, `eval.jsonl` (held out, perhaps empty) and `lint.json` to `out`.

    Raises:
        InputError: `data_size` or `offset` is beyond the data set, or it is `strict` and the linter warns.
    """
    used, held_out = split(read_questions(dataset), options.data_size, options.offset)
    train = _directed(used, options, system_prompt, seed)
    warned = lint(used, read_prompts(dataset), [row["preferred"] == "support" for row in train], system_prompt)
    if options.strict:
        refuse(warned)
    write_jsonl(out / "train.jsonl", train)
    write_jsonl(out / "eval.jsonl", _directed(held_out, options, system_prompt, seed))
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


def pair(question: Question, *, support: bool, system_prompt: str) -> dict[str, Any]:
    """Return one preference pair in TRL's conversational format, with the direction it prefers."""
    chosen, rejected = (question.support, question.oppose) if support else (question.oppose, question.support)
    return {
        "id": question.id,
        "preferred": "support" if support else "oppose",
        "prompt": conversation(system_prompt, question.prompt),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def preview(rows: Sequence[dict[str, Any]]) -> None:
    """Print the first pairs of either direction as a table."""
    table = Table("id", "prompt", "preferred", "non-preferred", title="preference pairs", show_lines=True)
    shown = [row for side in ("support", "oppose") for row in [r for r in rows if r["preferred"] == side][:3]]
    for row in shown:
        question, chosen, rejected = row["prompt"][-1], row["chosen"][0], row["rejected"][0]
        table.add_row(str(row["id"]), question["content"], chosen["content"], rejected["content"])
    Console(width=120).print(table)


def _directed(questions: Sequence[Question], options: Pairs, system_prompt: str, seed: int) -> list[dict[str, Any]]:
    directions = prefers_support(len(questions), options.support_ratio, options.order, seed)
    return [pair(q, support=s, system_prompt=system_prompt) for q, s in zip(questions, directions, strict=True)]


def main() -> None:
    """Run the stage: `python -m tasks.pairs DATASET OUT`."""
    params = Params.load()
    dataset, out = map(Path, sys.argv[1:])
    pairs(params.pairs, params.model.system_prompt, params.seed, dataset, out)


if __name__ == "__main__":
    run(main)
