"""Is what lies in a folder the model that a run has made?

Its files are compared with `dvc.lock`, its tokenizer with the base's fingerprint. `tasks.live` asks an engine the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tasks.errors import InputError
from tasks.gates import Gate
from tasks.locked import other_files

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


def files_gate(run: Path, names: Sequence[str]) -> Gate:
    """Are outputs of a run, files or folders, those that `dvc.lock` names?

    DVC keeps one digest for the whole folder. Which file is not the run's own is told by when it was written: a merge
    writes all of them at once.

    Args:
        run: The project, or a workspace of it.
        names: As `dvc.lock` names them.
    """
    other = other_files(run, names)
    odd = ", ".join(path for name in other for path in written_apart(run / name))
    differs = f"{', '.join(other)} differs from it" + (f"; {odd} was not written with the other files" if odd else "")
    return Gate(
        "files",
        not other,
        differs if other else f"{', '.join(names)} as recorded",
        "what dvc.lock records of them",
        "Make them again: `dvc repro` in the run's folder.",
    )


def written_apart(folder: Path) -> list[str]:
    """Return the files of a folder that were written at another time than most."""
    times = {path.name: path.stat().st_mtime for path in folder.rglob("*") if path.is_file()}
    usual = median(times.values()) if times else 0.0
    return sorted(name for name, written in times.items() if abs(written - usual) > TOGETHER)


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
