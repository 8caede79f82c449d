"""Is what lies in a folder the model that a run has made?

Its files are compared with `dvc.lock`, its tokenizer with the base's fingerprint. `tasks.live` asks an engine the same.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from tasks.errors import InputError
from tasks.gates import Gate
from tasks.params import read_yaml

TOGETHER = 120
"""Seconds within which all files of a model are written."""


def require(name: str, gates: Sequence[Gate]) -> None:
    """Refuse a model that misses a gate.

    Raises:
        InputError: It does; says which, by how much, and what to do.
    """
    missed = [gate for gate in gates if not gate.passed]
    if missed:
        said = "; ".join(f"{gate.name}: found {gate.found}, expected {gate.expected}" for gate in missed)
        raise InputError(f"{name} is not served, and what answers now is untouched ({said}); {missed[0].advice}")


def files_gate(folder: Path, lock: Path) -> Gate:
    """Are the files of a model those that `dvc.lock` names?

    DVC keeps one digest for the whole folder. Which file is not the run's own is told by when it was written: a merge
    writes all of them at once.
    """
    path = Path("data/merged").as_posix()
    outs = [out for stage in read_yaml(lock)["stages"].values() for out in stage.get("outs", [])]
    locked = next((str(out["md5"]) for out in outs if out["path"] == path), None)
    same = folder_digest(folder) == locked
    odd = ", ".join(written_apart(folder))
    differs = f"{folder} differs from it" + (f"; {odd} was not written with the other files" if odd else "")
    return Gate(
        "files",
        same,
        f"{folder} as recorded" if same else differs,
        f"what {lock.name} records of {path}",
        "Make the model again: `dvc repro -f -s merge` in the run's folder.",
    )


def folder_digest(folder: Path) -> str:
    """Return DVC's digest of a folder: the MD5 of the list of its files with theirs."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as threads:
        digests = list(threads.map(_md5, files))
    listing = [
        {"md5": digest, "relpath": path.relative_to(folder).as_posix()}
        for path, digest in zip(files, digests, strict=True)
    ]
    listing.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest() + ".dir"


def written_apart(folder: Path) -> list[str]:
    """Return the files of a folder that were written at another time than most."""
    times = {path.name: path.stat().st_mtime for path in folder.rglob("*") if path.is_file()}
    usual = median(times.values()) if times else 0.0
    return sorted(name for name, written in times.items() if abs(written - usual) > TOGETHER)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def tokenizer_gate(base: Mapping[str, Any], found: Mapping[str, Any]) -> Gate:
    """Does the tokenizer beside the weights read a conversation as the base's did in training?"""
    names = {"chat_template": "the chat template", "bos_token_id": "the BOS token", "eos_token_id": "the EOS token"}
    changed = [said for key, said in names.items() if base[key] != found[key]]
    lost = ["there is no EOS token"] if found["eos_token_id"] is None else []
    same = base["probes"] == found["probes"] and not changed
    differ = [f"{', '.join(changed)} changed"] if changed else ["other token ids for the probe conversations"]
    return Gate(
        "tokenizer",
        same and not lost,
        "as in training" if same else "; ".join([*lost, *differ]),
        "the chat template, special tokens and token ids that the model was trained with",
        "Make the model again: `dvc repro -f -s merge` in the run's folder.",
    )
