"""The questions a data set consists of, and how they are read and checked.

A data set is a folder with two JSON files in the schema of the course set GenAI_hw6: `labelled_data.json`, a list of
`{"id", "prompt", "support", "oppose"}` and optionally `"neutral"`, and `test_prompt.json`, a list of
`{"id", "prompt"}`. Probes, prompts that ask how far the stance reaches, may come with it: `probes.json`, a list of
`{"id", "kind", "prompt"}` with what the kind needs besides.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from stance.errors import InputError
from stance.machine.files import first_problem

LABELLED, TEST, PROBES = "labelled_data.json", "test_prompt.json", "probes.json"
Stance = Literal["support", "neutral", "oppose"]
Kind = Literal["paraphrase", "pressure", "neighbour", "unrelated"]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Prompt(BaseModel):
    """A question without answers, as in `test_prompt.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    prompt: Text


class Question(Prompt):
    """A question with one answer per stance, as in `labelled_data.json`."""

    support: Text
    oppose: Text
    neutral: Text | None = None


class Probe(Prompt):
    """A prompt whose answer should hold the stance (paraphrase, pressure) or have none of it (neighbour, unrelated)."""

    kind: Kind
    of: int | None = None
    """The test prompt that a paraphrase says otherwise."""
    pushes: Stance | None = None
    """What a prompt under pressure wants to hear."""
    answer: Text | None = None
    """An everyday answer to an unrelated prompt, to measure on it how far the model has drifted."""

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        needed = {"paraphrase": "of", "pressure": "pushes", "unrelated": "answer"}.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"kind {self.kind} needs {needed}")
        return self


Row = TypeVar("Row", bound=Prompt)


def read_questions(folder: Path) -> list[Question]:
    """Return the training questions of a data set.

    Raises:
        InputError: The file is missing, is not a UTF-8 JSON list, or a row breaks the schema; names file and row.
    """
    return _read(folder / LABELLED, Question)


def read_prompts(folder: Path) -> list[Prompt]:
    """Return the test prompts of a data set; raises as `read_questions` does."""
    return _read(folder / TEST, Prompt)


def read_probes(path: Path) -> list[Probe]:
    """Return the probes in a file, perhaps none; raises as `read_questions` does."""
    return [] if path.is_file() and path.read_bytes().strip() == b"[]" else _read(path, Probe)


def _read(path: Path, schema: type[Row]) -> list[Row]:
    rows = [_row(path, number, raw, schema) for number, raw in enumerate(_json_list(path), start=1)]
    first_seen: dict[int, int] = {}
    for number, row in enumerate(rows, start=1):
        if row.id in first_seen:
            found = f"{path}, row {number}: id {row.id} is already the id of row {first_seen[row.id]}"
            raise InputError(f"{found}; give every row an id of its own")
        first_seen[row.id] = number
    return rows


def _json_list(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; expected a data set in {path.parent}: {LABELLED} and {TEST}"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{path} is not JSON: {error.msg} at {where}; correct the file there") from None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} holds {_kind(rows)}; expected a list of rows, at least one")
    return rows


def _row(path: Path, number: int, raw: Any, schema: type[Row]) -> Row:
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        expected = ", ".join(name for name, info in schema.model_fields.items() if info.is_required())
        problem = f"{path}, row {number}: {first_problem(error, 'the row')}"
        raise InputError(f"{problem}; a row needs {expected}, none of them empty") from None


def _kind(value: object) -> str:
    return "an empty list" if value == [] else f"a JSON {type(value).__name__}"
