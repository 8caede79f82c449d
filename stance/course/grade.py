"""The total of a graded conversation: `python -m stance grade RECORD.json`.

The record is a conversation as the grading page downloads it. Its last message ends in a fenced json object of scores:
a number by name, or one number with its reasons, as in `{"Q1": {"score": 3, "reason": "..."}}`.
"""

import json
import re
import sys
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
"""The way to the grader's last words, step by step."""
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
BLOCK = re.compile(r"^[ \t]*```json\s*?\n(.*?)^[ \t]*```\s*?$", re.DOTALL | re.IGNORECASE | re.MULTILINE)
TOTALS = {"total", "totalscore", "sum", "overall", "總分", "總得分", "總計", "合計"}
"""What a grader calls the sum, without spaces and signs."""
EXPECTED = "expected a grading conversation as it was downloaded"


class Entry(NamedTuple):
    """What the grader wrote under a name."""

    name: str
    score: Decimal | None
    text: str
    """Whatever is no number."""

    @property
    def is_total(self) -> bool:
        """Is it the grader's own sum of the others?"""
        return re.sub(r"[\W_]", "", self.name).casefold() in TOTALS


def grade(path: Path) -> list[Entry]:
    """Return the scores in a record, in its order.

    Raises:
        InputError: It is no such record; says what is missing.
    """
    written = scores(last_reply(read_record(path), path), path)
    found = [Entry(name, *_score(name, value, path)) for name, value in written.items()]
    if all(entry.score is None for entry in found):
        raise InputError(f"the json block in {path} has no number; expected scores by name: have it graded again")
    return found


def read_record(path: Path) -> Any:
    """Return the value in a JSON file that someone downloaded.

    Raises:
        InputError: The file cannot be read, or is not UTF-8 or JSON.
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
    """Return the text of the last message of the first conversation; `path` says in an error whose."""
    for name, step in REPLY.items():
        try:
            record = record[step]
        except (KeyError, IndexError, TypeError):
            raise InputError(f"{path} has no {name}; {EXPECTED}: download it again") from None
    if not isinstance(record, str):
        raise InputError(f"{name} in {path} is no text; {EXPECTED}: download it again")
    return record


def scores(reply: str, path: Path) -> dict[str, Any]:
    """Return the object in the last fenced json block of a message, its numbers as decimals."""
    blocks = BLOCK.findall(reply)
    if not blocks:
        raise InputError(f"the last message in {path} has no fenced json block; have it graded again, with its scores")
    try:
        found = json.loads(blocks[-1], parse_int=Decimal, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the json block in {path} is not JSON ({error}); have it graded again") from None
    if not isinstance(found, dict):
        raise InputError(f"the json block in {path} is no object; expected scores by name: have it graded again")
    return found


def _score(name: str, value: Any, path: Path) -> tuple[Decimal | None, str]:
    parts = [_number(part) for part in (value.values() if isinstance(value, dict) else [value])]
    numbers = [part for part in parts if isinstance(part, Decimal)]
    if len(numbers) > 1:
        found = f"{name} in {path} holds {len(numbers)} numbers"
        raise InputError(f"{found}; expected one score, and which is it? Have it graded again")
    text = "; ".join(str(part) for part in parts if not isinstance(part, Decimal))
    return (numbers[0] if numbers else None), text


def _number(part: Any) -> Any:
    """Return the number that a text is, as graders write it now and then; anything else as it is."""
    return Decimal(part) if isinstance(part, str) and NUMBER.fullmatch(part.strip()) else part


def total(entries: Sequence[Entry]) -> Decimal:
    """Return the sum of the scores; the grader's own total counts only where it is all there is."""
    found = [entry.score for entry in entries if entry.score is not None and not entry.is_total]
    return sum(found, Decimal()) if found else next(entry.score for entry in entries if entry.score is not None)


def disagreement(entries: Sequence[Entry]) -> str | None:
    """Return a sentence if the grader's own total is not the sum."""
    found = total(entries)
    for entry in entries:
        if entry.is_total and entry.score not in (None, found):
            return f"The grader's own total ({entry.name}) is {entry.score:f}, and the scores add up to {found:f}."
    return None


def summary(entries: Sequence[Entry]) -> None:
    """Print the scores, their total, and whether the grader added up to something else."""
    table = Table("", "score", "", title="scores")
    for entry in entries:
        if not entry.is_total:
            table.add_row(entry.name, "" if entry.score is None else f"{entry.score:f}", entry.text)
    table.add_section()
    table.add_row("total", f"{total(entries):f}")
    console = Console(width=120, markup=False, emoji=False)  # brackets in a grader's words are no markup
    console.print(table)
    if found := disagreement(entries):
        console.print(found)


def main() -> None:
    """Print what a record says: `python -m stance grade RECORD.json`."""
    if len(sys.argv) != 2:
        raise InputError("name one record, for example `python -m stance grade RECORD.json`")
    summary(grade(Path(sys.argv[1])))
