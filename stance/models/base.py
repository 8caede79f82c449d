"""The base model: its record in `data/base/base.json`, and the folder that holds it.

A model from the Hub or from a folder stays where it is, so that DVC neither copies nor hashes it. The miniature, and a
model that was converted from a Python package, are in `data/base` itself.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self

from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict

from stance.config.models import FolderBase, HubBase
from stance.data.chat import Fingerprint, fingerprint, load_tokenizer
from stance.errors import InputError
from stance.machine.files import File, digest, from_project, write_json
from stance.machine.memory import gib, memory
from stance.models import hub

logger = logging.getLogger(__name__)


Device = Literal["cpu", "cuda"]
RECORD, MODEL = "base.json", "model"
CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
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
        """Return the record in `data/base`."""
        try:
            return cls.model_validate_json((base / RECORD).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{base / RECORD} does not exist; run `dvc repro base`") from None

    def write(self, base: Path) -> None:
        """Write the record to `data/base`."""
        write_json(base / RECORD, self.model_dump(mode="json", exclude_none=True))


def from_folder(options: FolderBase, device: Device) -> tuple[Base, Fingerprint]:
    """Return the record and the fingerprint of a model in a local folder."""
    folder = from_project(options.path)
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} has no {CONFIG}; set base.path to a folder that `save_pretrained` wrote")
    names = [path.name for path in folder.iterdir() if path.is_file()]
    weights = weight_files(folder, names, str(folder))
    stored = sum((folder / name).stat().st_size for name in weights)
    require_memory(in_bf16(stored, _read_config(folder / CONFIG)), device)
    files = sorted([*small_files(names), *weights])
    with ThreadPoolExecutor() as threads:  # hashing runs while the tokenizer is imported
        digests = threads.map(digest, [folder / name for name in files])
        fingerprint = read_fingerprint(folder, str(folder))
    return Base(source="folder", path=options.path, files=dict(zip(files, digests, strict=True))), fingerprint


def from_hub(options: HubBase, device: Device) -> tuple[Base, Fingerprint]:
    """Return the record and the fingerprint of a model on the Hub, downloaded and verified."""
    listing = hub.look_up(options.repo_id, options.revision)
    logger.info("%s is %s", options.revision, listing)
    if CONFIG not in listing.files:
        raise InputError(f"{listing} has no {CONFIG}; set base.repo_id to a transformers model")
    folder, small = hub.fetch(listing, small_files(listing.files))
    weights = weight_files(folder, listing.files, str(listing))
    stored = sum(listing.files[name].size for name in weights)
    require_memory(in_bf16(stored, _read_config(folder / CONFIG)), device)
    fingerprint = read_fingerprint(folder, str(listing))
    _, large = hub.fetch(listing, weights)
    files = dict(sorted((small | large).items()))
    return Base(source="hub", repo_id=options.repo_id, revision=listing.commit, files=files), fingerprint


def read_fingerprint(folder: Path, origin: str) -> Fingerprint:
    """Return the fingerprint of a model's tokenizer; `origin` names the model in an error.

    Raises:
        InputError: The model is no chat model, or its template accepts no system prompt.
    """
    try:
        return fingerprint(load_tokenizer(folder))
    except InputError as error:
        raise InputError(f"{origin} is not a chat model: {error}") from None
    except TemplateError as error:
        raise InputError(
            f"the chat template of {origin} refuses a conversation with a system prompt ({error}); choose a "
            "model that accepts one"
        ) from None


def require_memory(needed: int, device: Device) -> None:
    """Refuse a model whose bf16 weights alone exceed the memory of this machine, if it is to run on the CPU.

    Args:
        needed: Bytes of the weights in bf16.
        device: Where the model will run.

    Raises:
        InputError: The machine has less memory.
    """
    total = memory(gpu=False).total
    if device == "cpu" and needed > total:
        raise InputError(
            f"the weights need {gib(needed)} GiB and this machine has {gib(total)} GiB of "
            "memory; choose a smaller model, or set model.device to cuda on a machine with a GPU"
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); expected what `save_pretrained` writes") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} holds a {type(config).__name__}; expected what `save_pretrained` writes")
    return config


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


def weight_files(folder: Path, names: Iterable[str], origin: str) -> list[str]:
    """Return the names of the safetensors files of a model.

    Args:
        folder: Folder with the index, if the weights are in several files.
        names: Names of all files of the model.
        origin: Name of the model in an error.

    Raises:
        InputError: There are no safetensors, or files that the index names are missing.
    """
    present = set(names)
    if INDEX not in present and SINGLE not in present:
        raise InputError(
            f"{origin} has no {SINGLE} and no {INDEX}; expected a complete model in safetensors: choose another model, "
            "or convert it with `save_pretrained`"
        )
    if INDEX not in present:
        return [SINGLE]
    shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    if lost := sorted(shards - present):
        raise InputError(f"{origin} lacks {', '.join(lost)}, which its {INDEX} names; restore it")
    return sorted(shards)
