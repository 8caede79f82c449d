"""Add up the scores of a grading conversation: `python -m stance grade RECORD.json`.

The record is a conversation as the grading page downloads it. Its last message ends with a fenced json block of scores.
Each score is a number, or an object that holds one number and its reasons: `{"Q1": {"score": 3, "reason": "..."}}`.
"""

import json
import re
from argparse import ArgumentParser
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from stance.errors import InputError

REPLY: dict[str, str | int] = {
    "history": "history",
    "history[0]": 0,
    "history[0].messages": "messages",
    "history[0].messages[-1]": -1,
    "history[0].messages[-1].content": "content",
}
"""The path to the grader's last message: for each step its name in errors, and its key."""
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
BLOCK = re.compile(r"^[ \t]*```json\s*?\n(.*?)^[ \t]*```\s*?$", re.DOTALL | re.IGNORECASE | re.MULTILINE)
TOTALS = {"total", "totalscore", "sum", "overall", "總分", "總得分", "總計", "合計"}
"""Names that graders give to the total, without spaces and signs."""
EXPECTED = "expected a grading conversation as it was downloaded"


class Entry(NamedTuple):
    """One entry of the grader's scores."""

    name: str
    score: Decimal | None
    text: str
    """Everything in the entry that is not a number."""

    @property
    def is_total(self) -> bool:
        """Return whether the entry is the grader's own total."""
        return re.sub(r"[\W_]", "", self.name).casefold() in TOTALS


def grade(path: Path) -> list[Entry]:
    """Return the scores in a record, in their order.

    Raises:
        InputError: The file is not such a record; the error names the missing part.
    """
    block = scores(last_reply(read_record(path), path), path)
    entries = [Entry(name, *_score(name, value, path)) for name, value in block.items()]
    if all(entry.score is None for entry in entries):
        raise InputError(f"the json block in {path} has no number; expected scores by name: have it graded again")
    return entries


def read_record(path: Path) -> Any:
    """Return the value in a JSON file that someone downloaded.

    Raises:
        InputError: The file cannot be read, or is not JSON in UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {EXPECTED}: check the name") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); {EXPECTED}: download it again") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); {EXPECTED}: download it again") from None


def last_reply(record: Any, path: Path) -> str:
    """Return the last message of the first conversation.

    Args:
        record: The value in the file.
        path: The file, for errors.

    Raises:
        InputError: The record has no such message.
    """
    value = record
    for name, key in REPLY.items():
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise InputError(f"{path} has no {name}; {EXPECTED}: download it again") from None
    if not isinstance(value, str):
        raise InputError(f"{name} in {path} is not a text; {EXPECTED}: download it again")
    return value


def scores(reply: str, path: Path) -> dict[str, Any]:
    """Return the object in the last fenced json block of a message. Its numbers are decimals, so sums are exact.

    Raises:
        InputError: There is no such block, or it holds no object.
    """
    blocks = BLOCK.findall(reply)
    if not blocks:
        raise InputError(f"the last message in {path} has no fenced json block of scores; have it graded again")
    try:
        block = json.loads(blocks[-1], parse_int=Decimal, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the json block in {path} is not JSON ({error}); have it graded again") from None
    if not isinstance(block, dict):
        raise InputError(f"the json block in {path} is not an object; expected scores by name: have it graded again")
    return block


def _score(name: str, value: Any, path: Path) -> tuple[Decimal | None, str]:
    parts = [_number(part) for part in (value.values() if isinstance(value, dict) else [value])]
    numbers = [part for part in parts if isinstance(part, Decimal)]
    if len(numbers) > 1:
        raise InputError(f"{name} in {path} holds {len(numbers)} numbers; expected one score: have it graded again")
    text = "; ".join(str(part) for part in parts if not isinstance(part, Decimal))
    return (numbers[0] if numbers else None), text


def _number(value: Any) -> Any:
    """Return a number that is written as a text, as graders sometimes do; return any other value unchanged."""
    return Decimal(value) if isinstance(value, str) and NUMBER.fullmatch(value.strip()) else value


def total(entries: Sequence[Entry]) -> Decimal:
    """Return the sum of the scores. The grader's own total counts only if there is no other score."""
    numbers = [entry.score for entry in entries if entry.score is not None and not entry.is_total]
    return sum(numbers, Decimal()) if numbers else next(entry.score for entry in entries if entry.score is not None)


def disagreement(entries: Sequence[Entry]) -> str | None:
    """Return a sentence if the grader's own total is not the sum of the scores."""
    expected = total(entries)
    for entry in entries:
        if entry.is_total and entry.score not in (None, expected):
            return f"The grader's own total ({entry.name}) is {entry.score:f}, but the scores add up to {expected:f}."
    return None


def summary(entries: Sequence[Entry]) -> None:
    """Print the scores and their total; print a sentence if the grader's own total is different."""
    table = Table("", "score", "", title="scores")
    for entry in entries:
        if not entry.is_total:
            table.add_row(entry.name, "" if entry.score is None else f"{entry.score:f}", entry.text)
    table.add_section()
    table.add_row("total", f"{total(entries):f}")
    console = Console(width=120, markup=False, emoji=False)  # brackets in the grader's text are not markup
    console.print(table)
    if sentence := disagreement(entries):
        console.print(sentence)


def main() -> None:
    """Print the scores of a record: `python -m stance grade RECORD.json`."""
    parser = ArgumentParser(description="Print the scores of a grading conversation, and their total.")
    parser.add_argument("records", nargs="*", type=Path, metavar="RECORD.json", help="the downloaded conversation")
    records = parser.parse_args().records
    if len(records) != 1:
        raise InputError("name one record, for example `python -m stance grade RECORD.json`")
    summary(grade(records[0]))
