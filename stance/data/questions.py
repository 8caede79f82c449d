"""The questions a data set consists of, and how they are read and checked.

A data set is a folder with two files in the schema of the course set GenAI_hw6: `labelled_data.json`, a list of
`{"id", "prompt", "support", "oppose"}` and optionally `"neutral"`, and `test_prompt.json`, a list of
`{"id", "prompt"}`. Probes, prompts that ask how far the stance reaches, may come with it: `probes.json`, a list of
`{"id", "kind", "prompt"}` with what the kind needs besides. In the place of JSON, the files may be JSON Lines, CSV or
parquet (`stance.data.tables`). Other columns are ignored; `unused_columns` names them.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError, model_validator

from stance.data.tables import locate_table, read_table
from stance.errors import InputError

LABELLED, TEST, PROBES = "labelled_data.json", "test_prompt.json", "probes.json"
Stance = Literal["support", "neutral", "oppose"]
Kind = Literal["paraphrase", "pressure", "neighbour", "unrelated"]
IDENT = TypeAdapter(int)
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Prompt(BaseModel):
    """A question without answers, as in `test_prompt.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

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
        InputError: The file is missing, holds no list of rows, or rows break the schema; names the file and every row.
    """
    return read_rows(_file(folder, LABELLED), Question)


def read_prompts(folder: Path) -> list[Prompt]:
    """Return the test prompts of a data set; raises as `read_questions` does."""
    return read_rows(_file(folder, TEST), Prompt)


def read_both(folder: Path) -> tuple[list[Question], list[Prompt]]:
    """Return the training questions and the test prompts of a data set.

    Raises:
        InputError: A file is missing or wrong. The message holds all that is wrong with both files.
    """
    tables: list[Any] = []
    problems: list[str] = []
    for read in (read_questions, read_prompts):
        try:
            tables.append(read(folder))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(". ".join(problems))
    return tables[0], tables[1]


def read_probes(path: Path) -> list[Probe]:
    """Return the probes in a file, perhaps none; raises as `read_questions` does."""
    return [] if path.is_file() and path.read_bytes().strip() == b"[]" else read_rows(path, Probe)


def named_texts(questions: Iterable[Question], prompts: Iterable[Prompt] = ()) -> dict[str, str]:
    """Return every text of a data set by its place, for example `question 3, support`."""
    answers = {
        f"question {row.id}, {name}": text
        for row in questions
        for name in ("prompt", "support", "oppose", "neutral")
        if (text := getattr(row, name))
    }
    return answers | {f"test prompt {row.id}": row.prompt for row in prompts}


def unused_columns(folder: Path) -> list[str]:
    """Return a sentence for each file of a data set that has columns which nothing reads."""
    sentences = []
    for name, schema in ((LABELLED, Question), (TEST, Prompt)):
        path = locate_table(folder, name)
        rows = [row for row in read_table(path) if isinstance(row, dict)]
        if columns := sorted({str(column) for row in rows for column in row} - schema.model_fields.keys()):
            plural = "columns" if len(columns) > 1 else "column"
            sentences.append(f"{path}: the {plural} {', '.join(columns)} will not be used")
    return sentences


def table_in_json(folder: Path, name: str) -> bytes:
    """Return a file of a data set as JSON: unchanged if it is JSON, else its rows in the schema."""
    path = locate_table(folder, name)
    if path.suffix == ".json":
        return path.read_bytes()
    rows = read_rows(path, Question if name == LABELLED else Prompt)
    values = [row.model_dump(exclude_none=True) for row in rows]
    return (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode()


def _file(folder: Path, name: str) -> Path:
    path = locate_table(folder, name)
    if not path.exists():
        raise InputError(f"{path} does not exist; expected a data set in {folder}: {LABELLED} and {TEST}")
    return path


def read_rows(path: Path, schema: type[Row]) -> list[Row]:
    """Return the rows of a file in a schema; raises as `read_questions` does."""
    table = read_table(path)
    rows: list[Row] = []
    faults: dict[str, list[int]] = {}
    for number, raw in enumerate(table, start=1):
        try:
            rows.append(schema.model_validate(raw))
        except ValidationError as error:
            for fault in _faults(error, raw):
                faults.setdefault(fault, []).append(number)
    problems = [f"{rows_in_words(numbers)}: {fault}" for fault, numbers in faults.items()]
    shared = _shared_ids(table)
    advice = []
    if faults:
        expected = ", ".join(name for name, info in schema.model_fields.items() if info.is_required())
        advice.append(f"a row needs {expected}, none of them empty")
    if shared:
        advice.append("give every row an id of its own")
    if advice:
        raise InputError(f"{path}, {'; '.join([*problems, *shared])}; {', and '.join(advice)}")
    return rows


def _faults(error: ValidationError, raw: Any) -> list[str]:
    """Return every fault of a row, as `field: problem`. A column whose name differs only in its case is named."""
    sentences = []
    for problem in error.errors():
        field = ".".join(map(str, problem["loc"])) or "the row"
        text = f"{field}: {problem['msg'].removeprefix('Value error, ').lower()}"
        similar = [name for name in raw if str(name).strip().lower() == field] if isinstance(raw, dict) else []
        if problem["type"] == "missing" and similar:
            text += f" (there is {similar[0]!r}: rename it)"
        sentences.append(text)
    return sentences


def rows_in_words(numbers: Sequence[int]) -> str:
    """Return the numbers of rows as text, for example `row 3` or `rows 1, 4 to 9`."""
    return f"{'row' if len(numbers) == 1 else 'rows'} {numbers_in_words(numbers)}"


def numbers_in_words(numbers: Sequence[int]) -> str:
    """Return numbers as text, for example `3` or `1, 4 to 9`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _shared_ids(table: Sequence[Any]) -> list[str]:
    """Return a sentence for each row whose id is that of a row before it, wrong rows included."""
    first_seen: dict[int, int] = {}
    sentences = []
    for number, raw in enumerate(table, start=1):
        try:
            ident = IDENT.validate_python(raw["id"])
        except (ValidationError, LookupError, TypeError):
            continue  # which the schema has refused
        first = first_seen.setdefault(ident, number)
        if first != number:
            sentences.append(f"row {number}: id {ident} is already the id of row {first}")
    return sentences
