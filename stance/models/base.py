"""The base model: its record in `data/base/base.json`, and the folder that holds it.

A model from the Hub or from a folder stays where it is, so that DVC neither copies nor hashes it. The miniature, and a
model that was converted from a Python package, are in `data/base` itself.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter

from stance.errors import InputError
from stance.machine.files import File, from_project, parse_record, write_json
from stance.models import hub
from stance.models.weights import (
    CONFIG,
    weight_files,
)

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)


Device = Literal["cpu", "cuda"]
RECORD, MODEL = "base.json", "model"
SMALL = re.compile(
    r"(config|generation_config|model\.safetensors\.index|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|chat_template)\.json|chat_template\.jinja|(vocab|merges)\.txt|tokenizer\.model"
)
"""The files beside the weights that transformers and vLLM read. Notes and results in the folder are none of them."""
WEIGHTS = re.compile(r"model\.safetensors|[^/]+-\d+-of-\d+\.safetensors")


class Package(BaseModel):
    """Record of the Python package and of the GGUF file in it that a model was converted from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    distribution: str
    version: str
    file: str
    """Path of the GGUF file inside the package."""
    sha256: str
    """SHA-256 of the GGUF file."""
    original: str
    """OWNER/NAME of the model on the Hub that the GGUF file was made from."""
    license: str | None
    """The licence that the GGUF file names; None if it names none."""


class Base(BaseModel):
    """Record of the base model: its origin, and the hash and size of every file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["hub", "folder", "package", "miniature"]
    repo_id: str | None = None
    revision: str | None = None
    """The commit that `base.revision` stood for when the stage ran."""
    path: Path | None = None
    """The folder in `base.path`."""
    package: Package | None = None
    """What the weights were converted from if they came in a Python package."""
    files: dict[str, File]

    @classmethod
    def read(cls, base: Path) -> Self:
        """Return the record in `data/base`.

        Raises:
            InputError: The record is missing or in another format.
        """
        path = base / RECORD
        try:
            return parse_record(TypeAdapter(cls), path.read_bytes(), path, "run `dvc repro -s -f base`")
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; run `dvc repro base`") from None

    def write(self, base: Path) -> None:
        """Write the record to `data/base`."""
        write_json(base / RECORD, self.model_dump(mode="json", exclude_none=True))


def locate(base: Path) -> Path:
    """Return the folder with config.json, tokenizer and safetensors of the model that `data/base` records.

    Sizes are compared with the record. If files are missing from the Hub's cache, they are fetched again, at the
    recorded commit and with the recorded hashes.

    Raises:
        InputError: The model is missing, or differs from the record.
        Unreachable: The Hub does not answer.
    """
    record = Base.read(base)
    if record.source == "hub":
        return _in_cache(record) or _fetched_again(record)
    if record.source in ("package", "miniature"):
        folder = base / MODEL
    else:
        assert record.path is not None
        folder = from_project(record.path)
    if changed := _changed(folder, record.files):
        raise InputError(
            f"{folder} is not what {base / RECORD} describes ({', '.join(changed)} missing or of another "
            "size); restore the folder, or run `dvc repro -s -f base` to take it as it is"
        )
    return folder


def locate_tuned(base: Path, tuned: Path) -> Path:
    """Return the folder of the model that the stages after `sft` start from: the base, or all its weights fine-tuned.

    Args:
        base: `data/base`.
        tuned: `data/sft`; it holds a model if `sft.method` is `full`.

    Raises:
        InputError, Unreachable: As in `locate`.
    """
    whole = tuned / MODEL
    return whole if whole.exists() else locate(base)


def _in_cache(record: Base) -> Path | None:
    assert record.repo_id is not None
    assert record.revision is not None
    config = hub.cached(record.repo_id, record.revision, CONFIG)
    return config.parent if config and not _changed(config.parent, record.files) else None


def _fetched_again(record: Base) -> Path:
    assert record.repo_id is not None
    assert record.revision is not None
    logger.info("%s is not complete in the cache; fetching what is missing", record.repo_id)
    for name, recorded in record.files.items():
        path = hub.cached(record.repo_id, record.revision, name)
        if path and path.stat().st_size != recorded.size:
            hub.discard(path)
    folder, files = hub.fetch(hub.look_up(record.repo_id, record.revision), record.files)
    if files != record.files:
        raise InputError(
            f"{record.repo_id} at {record.revision} is not what {RECORD} describes; run `dvc repro -s -f "
            "base` to take it as it is"
        )
    return folder


def _changed(folder: Path, files: Mapping[str, File]) -> list[str]:
    return [name for name, file in files.items() if _size(folder / name) != file.size]


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def bf16_bytes(folder: Path) -> int:
    """Return the bytes of a folder's weights when they are loaded in bf16. Other files do not count."""
    names = [path.name for path in folder.iterdir()]
    stored = sum((folder / name).stat().st_size for name in weight_files(folder, names, str(folder)))
    return in_bf16(stored, json.loads((folder / CONFIG).read_text(encoding="utf-8")))


def in_bf16(stored: int, config: Mapping[str, Any]) -> int:
    """Return the bytes in bf16 of weights that take `stored` bytes; those of fp32 weights are halved."""
    return stored // (2 if "float32" in (config.get("dtype"), config.get("torch_dtype")) else 1)


def small_files(names: Iterable[str]) -> list[str]:
    """Return the names of the configuration and tokenizer files among the files of a model."""
    return sorted(name for name in names if SMALL.fullmatch(name))
