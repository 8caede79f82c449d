"""What a release holds: the files of both repositories, as they are sent.

The adapter or the merged model, and beside it the model card, parameters, `dvc.lock`, answers and gates.
"""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from stance.config import data, release
from stance.errors import InputError
from stance.machine.files import File, blob_id, digest
from stance.models.base import Base
from stance.models.hub import Entry
from stance.release.card import Part, card

PARTS: tuple[Part, ...] = get_args(Part)
EVALUATED = ("data/evaluation/responses.json", "data/evaluation/gates.json")
BESIDE = ("params.yaml", "dvc.lock", "data/merge/fingerprint.json", *EVALUATED)
CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
SECRET = re.compile(rf"{data.IN_ADDRESS.pattern}|\bhf_[A-Za-z0-9]{{30,}}")
TOKENIZER = re.compile(r"(tokenizer|special_tokens|added_tokens|vocab|merges|chat_template)[^/]*")
"""What a chat needs beside an adapter; training changes none of it."""


@dataclass(frozen=True)
class Local:
    """A file as it is sent."""

    content: Path | bytes
    holds: File

    def held_like(self, entry: Entry | None) -> tuple[int, str]:
        """Return size and hash, of the kind by which the Hub lists the file: git's where git itself holds it."""
        if entry is None or entry.sha256:
            return self.holds.size, self.holds.sha256
        content = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return self.holds.size, blob_id(content)

    def is_what(self, entry: Entry | None) -> bool:
        """Is it what the Hub lists?"""
        return entry is not None and entry.size == self.holds.size and entry.held == self.held_like(entry)


def bundle(run: Path, hub: release.Hub, part: Part) -> dict[str, Local]:
    """Return the files of a repository, by their path in it.

    Raises:
        InputError: The run is not finished.
    """
    weights = run / "data" / part
    sources: dict[str, Path | bytes] = {str(path.relative_to(weights)): path for path in _files(weights)}
    if part == "adapter":
        merged = _files(run / "data/merged")
        sources |= {path.name: path for path in merged if TOKENIZER.fullmatch(path.name)}
        sources[ADAPTER_CONFIG] = _adapter_config(weights / ADAPTER_CONFIG, Base.read(run / "data/base"))
    sources |= {Path(name).name: _existing(run / name) for name in BESIDE}
    sources[CARD] = card(run, hub, part).encode()
    for name in (*(Path(name).name for name in BESIDE), CARD):
        _refuse_secrets(name, sources[name])
    names = sorted(sources)
    with ThreadPoolExecutor() as threads:
        held = threads.map(_digested, [sources[name] for name in names])
        return {name: Local(sources[name], holds) for name, holds in zip(names, held, strict=True)}


def _files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    if not found:
        raise InputError(f"{folder} holds no files; expected a finished run: `make repro` first")
    return found


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected a finished run: `make repro` first")
    return path


def _adapter_config(path: Path, base: Base) -> bytes:
    """Return PEFT's configuration with the base as others find it; PEFT writes where it lies on this machine."""
    config = json.loads(_existing(path).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base.repo_id, "revision": base.revision}
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _refuse_secrets(name: str, source: Path | bytes) -> None:
    content = source if isinstance(source, bytes) else source.read_bytes()
    for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
        if SECRET.search(line):
            raise InputError(
                f"line {number} of {name} holds what looks like a password or a token, and would be published; take it "
                "out of what the run was made from - params.yaml, the data -, leave it to git's credential helper or "
                "the environment, and run it again"
            )


def _digested(source: Path | bytes) -> File:
    if isinstance(source, Path):
        return digest(source)
    return File(sha256=hashlib.sha256(source).hexdigest(), size=len(source))
