"""Answers as the answers stages write them, and how they are read and checked."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stance.errors import InputError
from stance.machine.files import first_problem

RESPONSES = Path("data/evaluation/responses.json")


class Answer(BaseModel):
    """A prompt with a model's answer."""

    model_config = ConfigDict(frozen=True)

    id: int
    prompt: str
    response: str
    tokens: int
    finish_reason: str
    """`stop`, or `length` where the answer was cut off."""


def read_answers(path: Path) -> list[Answer]:
    """Return the answers in a file of JSON Lines.

    Raises:
        InputError: The file is missing, holds no answer, or a row is no `Answer`; names file and row.
    """
    again = "run the stage that writes it again: `dvc repro -s -f answers_base answers_aligned`"
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; {again}") from None
    if not lines:
        raise InputError(f"{path} holds no answers; {again}")
    return [_answer(path, number, line, again) for number, line in enumerate(lines, start=1)]


def _answer(path: Path, number: int, line: str, again: str) -> Answer:
    try:
        return Answer.model_validate_json(line)
    except ValidationError as error:
        expected = ", ".join(Answer.model_fields)
        problem = f"{path}, row {number}: {first_problem(error, 'the row')}"
        raise InputError(f"{problem}; a row needs {expected}: {again}") from None


class Response(BaseModel):
    """Both answers to a test prompt; the names are the course's."""

    model_config = ConfigDict(frozen=True, strict=True)

    id: int
    prompt: str
    response_from_original_model: str
    response_from_trained_model: str


RESPONSE_LIST = TypeAdapter(Annotated[list[Response], Field(min_length=1)])


def read_responses(path: Path) -> list[Response]:
    """Return the answers that `evaluate` wrote.

    Raises:
        InputError: The file is missing, or is no list of answers in the course's format; names the row.
    """
    try:
        return parse_responses(path.read_bytes(), path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run `make repro` first, which writes it") from None


def parse_responses(content: bytes, path: Path) -> list[Response]:
    """Return the answers in the bytes of a file; `path` names the file in an error."""
    try:
        return RESPONSE_LIST.validate_json(content)
    except ValidationError as error:
        expected = f"expected a list of rows with {', '.join(Response.model_fields)}"
        raise InputError(f"{path}: {first_problem(error)}; {expected}: `make repro` writes it again") from None
