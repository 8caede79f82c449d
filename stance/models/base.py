"""The base model as the other stages find it: `data/base/base.json` says what it is, `locate` says where.

A model from the Hub or from a folder stays where it is, so that DVC neither copies nor hashes it; only the
miniature lies in `data/base` itself.
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
from stance.errors import InputError
from stance.machine.files import File, digest, write_json
from stance.machine.memory import gib, memory
from stance.models import hub

logger = logging.getLogger(__name__)


RECORD, MODEL = "base.json", "model"
CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SMALL = re.compile(r"[^/]+\.(json|jinja|txt)|tokenizer\.model")


class Base(BaseModel):
    """What the base model is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["hub", "folder", "miniature"]
    repo_id: str | None = None
    revision: str | None = None
    """The commit that `base.revision` stood for."""
    path: Path | None = None
    """The folder as `base.path` names it."""
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


def locate(base: Path) -> Path:
    """Return the folder with config.json, tokenizer and safetensors of the model that `data/base` describes.

    Sizes are compared with the record. What the Hub's cache has lost since is fetched again, at the recorded
    commit and with the recorded hashes.

    Raises:
        InputError: The model is no longer there, or no longer the one that was recorded.
    """
    record = Base.read(base)
    if record.source == "hub":
        return _in_cache(record) or _fetched_again(record)
    folder = base / MODEL if record.source == "miniature" else record.path
    assert folder is not None
    if changed := _changed(folder, record.files):
        raise InputError(
            f"{folder} is not what {base / RECORD} describes ({', '.join(changed)} missing or of another "
            "size); restore the folder, or run `dvc repro -s -f base` to take it as it is"
        )
    return folder


def bf16_bytes(folder: Path) -> int:
    """Return the size of a folder's weights once they are loaded in bf16; files beside them do not count."""
    names = [path.name for path in folder.iterdir()]
    stored = sum((folder / name).stat().st_size for name in weight_files(folder, names, str(folder)))
    return in_bf16(stored, json.loads((folder / CONFIG).read_text(encoding="utf-8")))


def in_bf16(stored: int, config: Mapping[str, Any]) -> int:
    """Return what stored weights take in bf16; fp32 ones are halved."""
    return stored // (2 if "float32" in (config.get("dtype"), config.get("torch_dtype")) else 1)


def small_files(names: Iterable[str]) -> list[str]:
    """Return those files of a model folder that are read beside the weights: configuration and tokenizer."""
    return sorted(name for name in names if SMALL.fullmatch(name))


def weight_files(folder: Path, names: Iterable[str], origin: str) -> list[str]:
    """Return the safetensors that make up a model.

    Args:
        folder: Holds the index, if the weights are in several files.
        names: The files there are.
        origin: What to call the model in an error.

    Raises:
        InputError: There are none, or some of those that the index names are missing.
    """
    there = set(names)
    if INDEX not in there and SINGLE not in there:
        raise InputError(
            f"{origin} has no {SINGLE} and no {INDEX}; expected a whole model in safetensors: choose one, or "
            "convert it with `save_pretrained`"
        )
    if INDEX not in there:
        return [SINGLE]
    shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    if lost := sorted(shards - there):
        raise InputError(f"{origin} lacks {', '.join(lost)}, which its {INDEX} names; restore it")
    return sorted(shards)


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


Device = Literal["cpu", "cuda"]


def from_folder(options: FolderBase, device: Device) -> tuple[Base, dict[str, Any]]:
    """Return the record and the fingerprint of a model in a local folder."""
    folder = options.path
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} has no {CONFIG}; set base.path to a folder that `save_pretrained` wrote")
    names = [path.name for path in folder.iterdir() if path.is_file()]
    weights = weight_files(folder, names, str(folder))
    _require_memory(folder, sum((folder / name).stat().st_size for name in weights), device)
    wanted = sorted([*small_files(names), *weights])
    with ThreadPoolExecutor() as threads:  # hashing leaves the interpreter to the imports of the tokenizer
        digests = threads.map(digest, [folder / name for name in wanted])
        reads = read_fingerprint(folder, str(folder))
    return Base(source="folder", path=folder, files=dict(zip(wanted, digests, strict=True))), reads


def from_hub(options: HubBase, device: Device) -> tuple[Base, dict[str, Any]]:
    """Return the record and the fingerprint of a model on the Hub, downloaded and verified."""
    listing = hub.look_up(options.repo_id, options.revision)
    logger.info("%s is %s", options.revision, listing)
    if CONFIG not in listing.files:
        raise InputError(f"{listing} has no {CONFIG}; set base.repo_id to a transformers model")
    folder, small = hub.fetch(listing, small_files(listing.files))
    weights = weight_files(folder, listing.files, str(listing))
    _require_memory(folder, sum(listing.files[name].size for name in weights), device)
    reads = read_fingerprint(folder, str(listing))
    _, large = hub.fetch(listing, weights)
    files = dict(sorted((small | large).items()))
    return Base(source="hub", repo_id=options.repo_id, revision=listing.commit, files=files), reads


def read_fingerprint(folder: Path, origin: str) -> dict[str, Any]:
    """Return how the model reads conversations; `origin` names it in an error."""
    # Seconds of imports, for which the sentence about a misspelt repo_id need not wait.
    from stance.data.chat import fingerprint, load_tokenizer

    try:
        return fingerprint(load_tokenizer(folder))
    except InputError as error:
        raise InputError(f"{origin} is not a chat model: {error}") from None
    except TemplateError as error:
        raise InputError(
            f"the chat template of {origin} refuses a conversation with a system prompt ({error}); choose a "
            "model that takes one"
        ) from None


def _require_memory(folder: Path, weight_bytes: int, device: Device) -> None:
    """Refuse a model whose bf16 weights alone exceed the memory of the machine it is to run on."""
    needed = in_bf16(weight_bytes, _read_config(folder / CONFIG))
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
