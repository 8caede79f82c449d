"""The files of a release as they are sent to the Hub: one set for each of the two repositories.

The adapter or the merged model, and beside it the model card, parameters, `dvc.lock`, answers, gates, provenance and
the signature of them all. `bundle` takes
a `FinishedRun` and reads no file again.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from stance.config import data, release
from stance.data.answers import RESPONSES
from stance.data.records import GATES
from stance.errors import InputError
from stance.machine.digests import Digest
from stance.machine.files import File, blob_id
from stance.models.base import Base
from stance.models.hub import Entry
from stance.release.card import Part, card
from stance.runs.finished import ADAPTER, FINGERPRINT, MERGED, PARAMS, FinishedRun
from stance.runs.lockfile import LOCK
from stance.runs.provenance import PROVENANCE, signed_provenance
from stance.runs.signature import SIGNATURE, private_key, sign

PARTS: tuple[Part, ...] = get_args(Part)
BESIDE = (PARAMS, LOCK, FINGERPRINT, RESPONSES, GATES)
"""The small files of the run that stand beside the weights."""
CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
SECRET = re.compile(rf"{data.IN_ADDRESS.pattern}|\bhf_[A-Za-z0-9]{{30,}}")
TOKENIZER = re.compile(r"(tokenizer|special_tokens|added_tokens|vocab|merges|chat_template)[^/]*")
"""The files that a chat needs beside an adapter; training changes none of them."""


@dataclass(frozen=True)
class Local:
    """A file as it is sent."""

    content: Path | bytes
    holds: File
    blob_id: str
    """git's hash of the content."""
    digest: Digest | None = None
    """The digest of a file on disk."""

    @classmethod
    def of_bytes(cls, content: bytes) -> "Local":
        """Return a file that is sent from memory."""
        holds = File(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        return cls(content, holds, blob_id(content))

    @classmethod
    def of_digest(cls, path: Path, digest: Digest) -> "Local":
        """Return a file on disk whose digest was taken."""
        return cls(path, File(sha256=digest.sha256, size=digest.stat.size), digest.blob_id, digest)

    def read(self) -> bytes:
        """Return the content.

        Raises:
            InputError: The file on disk was changed since its digest was taken.
        """
        if isinstance(self.content, bytes):
            return self.content
        content = self.content.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.holds.sha256:
            raise InputError(f"{self.content} was changed since it was checked; run the push again")
        return content

    def held_like(self, entry: Entry | None) -> tuple[int, str]:
        """Return size and hash, of the kind that the Hub lists the file by: git's where git itself holds it."""
        return self.holds.size, self.holds.sha256 if entry is None or entry.sha256 else self.blob_id

    def is_what(self, entry: Entry | None) -> bool:
        """Is the file the one that the Hub lists?"""
        return entry is not None and entry.size == self.holds.size and entry.held == self.held_like(entry)


def bundle(run: FinishedRun, hub: release.Hub, part: Part) -> dict[str, Local]:
    """Return the files of a repository, by their path in it.

    Args:
        run: The run.
        hub: The names of the repositories.
        part: Which of the two repositories.

    Raises:
        InputError: A file holds what looks like a secret.
    """
    files = _folder(run, ADAPTER if part == "adapter" else MERGED)
    if part == "adapter":
        files |= {name: file for name, file in _folder(run, MERGED).items() if TOKENIZER.fullmatch(name)}
        files[ADAPTER_CONFIG] = Local.of_bytes(_adapter_config(run.folder / ADAPTER / ADAPTER_CONFIG, run.base))
    beside = {path.name: run.contents[path] for path in BESIDE}
    beside |= {CARD: card(run, hub, part).encode(), PROVENANCE: signed_provenance(run)}
    files |= {name: Local.of_bytes(content) for name, content in beside.items()}
    for name, file in files.items():
        if not name.endswith(".safetensors"):  # numbers, in which anything can look like a token
            _refuse_secrets(name, file.read())
    hashes = {name: file.holds.sha256 for name, file in files.items()}
    files[SIGNATURE] = Local.of_bytes(sign(run.release, hashes, private_key()))
    return dict(sorted(files.items()))


def parts(run: FinishedRun) -> tuple[Part, ...]:
    """Return which repositories a run has. After a fine-tuning of all weights nobody else has the adapter's base."""
    return ("merged",) if run.params.fine_tunes_whole else PARTS


def _folder(run: FinishedRun, output: str) -> dict[str, Local]:
    """Return the files of one of the run's models by their path in its folder."""
    return {name: Local.of_digest(run.folder / output / name, digest) for name, digest in run.files(output).items()}


def _adapter_config(path: Path, base: Base) -> bytes:
    """Return PEFT's configuration with the base's name on the Hub in place of its path on this machine."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base.repo_id, "revision": base.revision}
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _refuse_secrets(name: str, content: bytes) -> None:
    for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
        if SECRET.search(line):
            raise InputError(
                f"line {number} of {name} holds what looks like a password or a token, and would be published; remove "
                "it from params.yaml, the data or the base model, leave it to git's credential helper or the "
                "environment, and make the run again"
            )
