"""Files: JSON, JSON Lines and YAML, and the hashes of files.

Text is UTF-8 and not escaped. Writers make the folder if it does not exist.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from stance.errors import InputError


def from_project(path: Path) -> Path:
    """Return where a path in `params.yaml` leads to: relative to the project, in the workspace of a run too.

    `~` is the home folder. What a workspace holds itself, because it is in git, is taken from there.
    """
    try:
        path = path.expanduser()
    except RuntimeError:  # ~somebody, who has no home here
        return path
    here = Path.cwd()
    if path.is_absolute() or path.exists() or here.parent.name != ".runs":
        return path
    return here.parents[1] / path


def read_json(path: Path) -> Any:
    """Return the value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write a value, indented for people to read."""
    _write(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file."""
    # Not splitlines: it would also cut a row at a U+2028 inside a text.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    """Write one row per line."""
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def empty(folder: Path, ours: str) -> None:
    """Make an empty folder, or empty the one of an earlier run. Only files of ours are removed.

    Args:
        folder: The folder. A link to a folder stays a link.
        ours: Pattern of the names of all files that a run writes there.

    Raises:
        InputError: The folder holds something else, which may be yours. Nothing was removed.
    """
    present = sorted(folder.iterdir()) if folder.is_dir() else []
    if others := [path.name for path in present if not (path.is_file() and re.fullmatch(ours, path.name))]:
        raise InputError(
            f"{folder} would be emptied and holds {others[0]}, which this project did not write; move that away"
        )
    for path in present:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)


UNFINISHED = "expected a finished run: `make repro` first"


def read_output(path: Path) -> bytes:
    """Return the bytes of a file that a stage writes.

    Raises:
        InputError: The file does not exist.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; {UNFINISHED}") from None


def first_problem(error: ValidationError, whole: str = "the file") -> str:
    """Return the first thing that pydantic found wrong, as `field: problem`; `whole` stands for no field."""
    problem = error.errors()[0]
    field = ".".join(map(str, problem["loc"])) or whole
    return f"{field}: {problem['msg'].removeprefix('Value error, ').lower()}"


Record = TypeVar("Record")
REPRO = "run `dvc repro` again in the run's folder"


def parse_record(schema: TypeAdapter[Record], content: bytes, path: Path, advice: str = REPRO) -> Record:
    """Return the record in the bytes of a JSON file.

    Args:
        schema: The type of the record.
        content: The bytes.
        path: The file, for an error.
        advice: What to do when the bytes are in another format.

    Raises:
        InputError: A key is missing or unknown, a value has the wrong type, or the bytes are not JSON.
    """
    try:
        return schema.validate_json(content)
    except ValidationError as error:
        raise InputError(f"{path} is not in the format of this version ({first_problem(error)}); {advice}") from None


RESTORES = {"params.yaml": "make profile NAME=smollm2-135m", "dvc.lock": "make repro"}
"""The command that writes a file, by the file's name. All other YAML files are in git."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        InputError: The file does not exist, is not YAML, or holds no mapping.
    """
    try:
        return parse_yaml(path.read_bytes(), path)
    except FileNotFoundError:
        command = RESTORES.get(path.name, f"git checkout {path}")
        raise InputError(f"{path} does not exist; `{command}` writes it") from None


def parse_yaml(content: bytes, path: Path) -> dict[str, Any]:
    """Return the mapping in the bytes of a YAML file; `path` names the file in an error."""
    try:
        values = yaml.safe_load(content.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}; correct it") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}; expected blocks of names and values")
    return values


def lookup(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, or None if there is no such key."""
    value: Any = values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


CHUNK = 2**24  # bytes; large ones leave the interpreter to other threads


class File(BaseModel):
    """Hash and size of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int
    """Bytes."""


def digest(path: Path) -> File:
    """Return hash and size of a file."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
    return File(sha256=sha256.hexdigest(), size=path.stat().st_size)


def blob_id(content: bytes) -> str:
    """Return the SHA-1 by which git names a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def md5(path: Path) -> str:
    """Return DVC's hash of a file or a folder."""
    return md5_of_list(md5_of_files(path)) if path.is_dir() else md5_of_file(path)


def md5_of_list(files: Mapping[str, str]) -> str:
    """Return DVC's hash of a folder: the MD5 of the list of its files, and the ending `.dir`."""
    rows = [{"md5": md5, "relpath": path} for path, md5 in files.items()]
    return hashlib.md5(json.dumps(rows).encode(), usedforsecurity=False).hexdigest() + ".dir"


def md5_of_files(folder: Path) -> dict[str, str]:
    """Return the MD5 of every file in a folder by relative path, in DVC's order."""
    files = files_below(folder)
    with ThreadPoolExecutor() as threads:
        hashes = threads.map(md5_of_file, files)
        return {path.relative_to(folder).as_posix(): md5 for path, md5 in zip(files, hashes, strict=True)}


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder in DVC's order; `.dvcignore` leaves out bytecode."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(files, key=lambda path: path.relative_to(folder).parts)


def md5_of_file(path: Path) -> str:
    """Return the MD5 of a file."""
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            md5.update(chunk)
    return md5.hexdigest()


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested blocks under dotted keys."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
