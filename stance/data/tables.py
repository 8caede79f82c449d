"""Files with rows: JSON, JSON Lines, CSV, tab-separated text and parquet.

In: a file as people have it, for example with a byte order mark. Out: its rows, each a dictionary, or one sentence that
says what is wrong with the file. `stance.data.questions` and `stance.data.importing` check what the rows hold.
"""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

from stance.errors import InputError

ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
"""The kinds of file that can be read, by the ending of the name."""
MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
"""The byte order marks, with the encoding that each of them names."""
OTHER_FORMATS = (
    (b"PK\x03\x04", "a zip file, as Excel's workbooks are; save the sheet as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "a workbook of an old Excel; save the sheet as CSV in UTF-8"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"%PDF", "a PDF; save its text as CSV in UTF-8"),
)
"""How files of other formats begin, and what to do with them."""
POINTER = b"version https://git-lfs.github.com/spec/"
TYPOGRAPHIC = "“”„‟‘’«»「」"
"""Quotation marks that word processors put in the place of the straight one."""


def locate_table(folder: Path, name: str) -> Path:
    """Return the file of a data set: `name`, or a file of the same stem in another format.

    Raises:
        InputError: There are several such files.
    """
    stem = Path(name).stem
    present = [path for ending in ENDINGS if (path := folder / f"{stem}{ending}").exists()]
    if len(present) > 1:
        names = " and ".join(path.name for path in present)
        raise InputError(f"{folder} holds {names}; expected one file of that name: remove the others")
    return present[0] if present else folder / name


def read_table(path: Path) -> list[Any]:
    """Return the rows of a file; in JSON and JSON Lines a row may be a value of any type.

    Raises:
        InputError: The file cannot be read, is not what its ending says, or has no rows.
    """
    content = _bytes(path)
    if content.startswith(POINTER):
        raise InputError(f"{path} is a pointer of Git LFS and not the file itself; run `git lfs pull` there")
    if other := next((told for start, told in OTHER_FORMATS if content.startswith(start)), None):
        raise InputError(f"{path} is {other}")
    if path.suffix.lower() == ".parquet" or content.startswith(b"PAR1"):
        rows = _parquet(path)
    elif path.suffix.lower() in (".csv", ".tsv"):
        rows = _csv(path, decoded(path, content))
    else:
        rows = _json(path, decoded(path, content))
    if not rows:
        raise InputError(f"{path} holds an empty list; expected a list of rows, at least one")
    return rows


def decoded(path: Path, content: bytes) -> str:
    """Return a text in UTF-8, or in UTF-16 with a byte order mark. The mark is left out."""
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if "\0" in text:
        raise InputError(f"{path} holds the character NUL, as UTF-16 without a byte order mark does; save it as UTF-8")
    return text


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a file with rows in one of {', '.join(ENDINGS)}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); expected a file that you may read") from None


def _json(path: Path, text: str) -> list[Any]:
    try:
        value = _parsed(text)
    except json.JSONDecodeError as error:
        if (rows := _json_lines(path, text)) is not None:
            return rows
        raise InputError(f"{path} is not JSON: {_reason(path, text, error)}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        raise InputError(f"{path} is not JSON that can be read: {error}; correct the file") from None
    if path.suffix.lower() == ".jsonl" and not isinstance(value, list):
        return [value]
    if not isinstance(value, list):
        raise InputError(f"{path} holds a JSON {type(value).__name__}; expected a list of rows, at least one")
    return value


def _parsed(text: str) -> Any:
    """Return a JSON value. NaN, by which pandas says that a cell is empty, becomes None.

    Raises:
        ValueError: The text is not JSON, or an object has a key twice, of which Python would take the last.
    """
    return json.loads(text, object_pairs_hook=_object, parse_constant=lambda _: None)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"an object has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return values


def _json_lines(path: Path, text: str) -> list[Any] | None:
    """Return the rows of JSON Lines; None if the text is something else."""
    # Not splitlines: it would also cut a row at a U+2028 inside a text.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    is_named_so = path.suffix.lower() == ".jsonl"
    if not is_named_so and (len(lines) < 2 or not all(line.lstrip().startswith("{") for _, line in lines)):
        return None
    rows = []
    for number, line in lines:
        try:
            rows.append(_parsed(line))
        except ValueError as error:
            if not rows and not is_named_so:
                return None
            raise InputError(f"{path}, line {number}: not JSON: {error}; correct the file there") from None
    return rows


def _reason(path: Path, text: str, error: json.JSONDecodeError) -> str:
    """Return what is wrong with a JSON text, where it is wrong, and what to do."""
    before = text[: error.pos].rstrip()
    after = text[error.pos : error.pos + 1]
    if before.endswith(",") and after in ("]", "}"):
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1)
        return f"a comma stands before the closing {after} at line {line}, column {column}; correct the file there"
    where = f"line {error.lineno}, column {error.colno}"
    if after and after in TYPOGRAPHIC:
        return f'the quotation mark {after} at {where} is a typographic one; write " in its place'
    first = text.lstrip().split("\n", 1)[0]
    if error.pos <= len(text) - len(text.lstrip()) and any(mark in first for mark in ",\t;"):
        return (
            f"{error.msg} at {where}; correct the file there. It seems to hold CSV: rename it to {path.stem}.csv, or "
            f"run `python -m stance import {path.stem}.csv NAME`"
        )
    return f"{error.msg} at {where}; correct the file there"


def _csv(path: Path, text: str) -> list[Any]:
    csv.field_size_limit(sys.maxsize)  # the default ends a text after 131072 characters
    header = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"{path} is not CSV: {error}; save it as CSV in UTF-8 again") from None
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return []
    names = [name.strip() for name in rows[0]]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise InputError(f"{path} has the column {twice[0]} twice; give every column a name of its own")
    if long := [number for number, row in enumerate(rows[1:], start=1) if len(row) > len(names)]:
        raise InputError(
            f"{path}, row {long[0]}: there are more cells than the {len(names)} columns of the first line; put a text "
            "that holds the separator between quotation marks"
        )
    # An empty cell is no text: CSV has no other way to leave one out.
    return [{name: cell for name, cell in zip(names, row, strict=False) if name and cell.strip()} for row in rows[1:]]


def _parquet(path: Path) -> list[Any]:
    import pyarrow  # takes 0.1 s, and few data sets are parquet
    from pyarrow import parquet

    try:
        rows: list[Any] = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not parquet: {str(error).splitlines()[0]}; write it again") from None
    return [{name: value for name, value in row.items() if value is not None} for row in rows]
