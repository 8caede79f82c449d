"""The record that DVC itself keeps of each stage that ran, in the folder `runs` of its cache: the run cache.

An entry is a file. Its name is the SHA-256 of what the file holds: the command, and the hashes of dependencies,
parameters and outputs. So `unrecorded` computes the names that the stages of a `dvc.lock` must have, and looks for the
files. DVC is not imported, which would take seconds.

DVC keeps no entry for a stage with an output that is marked `persist`. The hashes of its outputs are in the entries of
the stages that read them.
"""

import configparser
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UNHASHED = ("size", "nfiles")
"""Keys of an entry that DVC leaves out of its hash."""


def unrecorded(folder: Path, stages: Mapping[str, Any], persistent: set[str]) -> list[str]:
    """Return the stages of a lock that DVC never ran in the form in which the lock has them.

    Args:
        folder: The project, or a workspace of it.
        stages: The entry of each stage in `dvc.lock`.
        persistent: The stages that DVC keeps no entry for.
    """
    runs = cache(folder) / "runs"
    return [name for name, entry in stages.items() if name not in persistent and not (runs / place(entry)).is_file()]


def place(entry: Mapping[str, Any]) -> Path:
    """Return the path of the entry of a stage, relative to the folder of all entries.

    The folder of the entry is named by the same hash, without the hashes of the outputs (`dvc.stage.cache`).
    """
    key = _sha256({**entry, "outs": [out["path"] for out in entry.get("outs", [])]})
    return Path(key[:2], key, _sha256(entry))


def cache(folder: Path) -> Path:
    """Return the folder of DVC's cache, which the workspaces of a project share."""
    config = configparser.ConfigParser(interpolation=None)
    config.read([folder / ".dvc/config", folder / ".dvc/config.local"], encoding="utf-8")
    return folder / ".dvc" / config.get("cache", "dir", fallback="cache")


def _sha256(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_hashed(entry), sort_keys=True).encode()).hexdigest()


def _hashed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _hashed(item) for key, item in value.items() if key not in UNHASHED}
    return [_hashed(item) for item in value] if isinstance(value, list) else value
