"""Preference pairs as files hold them: one per line, in TRL's conversational format, read and written here."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stance.data.questions import Stance
from stance.errors import InputError
from stance.machine.files import first_problem, read_jsonl, write_jsonl

Row = TypeVar("Row", bound=BaseModel)


class Turn(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Pair(BaseModel):
    """A preference pair: a prompt, the answer that training prefers, and the answer that it rejects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    """The id of the question."""
    preferred: Stance
    """The stance of the chosen answer."""
    against: Stance
    """The stance of the rejected answer; *neutral* where it is the base model's own."""
    prompt: list[Turn]
    chosen: list[Turn] = Field(min_length=1, max_length=1)
    rejected: list[Turn] = Field(min_length=1, max_length=1)

    @property
    def question(self) -> str:
        """The text of the question, without the system prompt."""
        return self.prompt[-1].content

    @property
    def chosen_text(self) -> str:
        """The text of the chosen answer."""
        return self.chosen[0].content

    @property
    def rejected_text(self) -> str:
        """The text of the rejected answer."""
        return self.rejected[0].content

    def answers(self) -> dict[Stance, str]:
        """Return both answers by their stance."""
        return {self.preferred: self.chosen_text, self.against: self.rejected_text}


class RetainedPair(BaseModel):
    """A pair that keeps the base model as it is: its own answer to an unrelated prompt, and an answer about the topic.

    It is trained on beside the preference pairs, and counts in no figure about them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    """The id of the prompt in `data/dataset/retained.json`."""
    prompt: list[Turn]
    chosen: list[Turn] = Field(min_length=1, max_length=1)
    rejected: list[Turn] = Field(min_length=1, max_length=1)


def read_retained_pairs(path: Path) -> list[RetainedPair]:
    """Return the retained pairs in a file, none if there is no such file; raises as `read_pairs` does."""
    rows = read_jsonl(path) if path.exists() else []
    return [_row(row, RetainedPair, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]


def read_pairs(path: Path) -> list[Pair]:
    """Return the preference pairs in a file.

    Raises:
        InputError: The file is missing, or a row is no pair; names the row and the field.
    """
    try:
        rows = read_jsonl(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run `dvc repro pairs`") from None
    return [_row(row, Pair, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]


def write_pairs(path: Path, pairs: Iterable[Pair | RetainedPair]) -> None:
    """Write preference pairs to a file, one per line."""
    write_jsonl(path, [pair.model_dump() for pair in pairs])


def one_way(pairs: Sequence[Pair]) -> dict[str, Stance]:
    """Return the preferred stance of each question, without the questions whose pairs prefer both stances."""
    sides: dict[str, set[Stance]] = {}
    for pair in pairs:
        sides.setdefault(str(pair.id), set()).add(pair.preferred)
    return {ident: stances.pop() for ident, stances in sides.items() if len(stances) == 1}


def _row(row: Any, schema: type[Row], where: str) -> Row:
    try:
        return schema.model_validate(row)
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error, 'the row')}; run `dvc repro -f -s pairs`") from None
