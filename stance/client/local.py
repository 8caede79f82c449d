"""The endpoint of this folder: where its key and its state are, and how the key is made.

The key comes from the variable `STANCE_API_KEY`. If it is not set, a key is made once and kept in `.serve/key`, which
only the owner may read. The endpoint writes what it serves to `.serve/state.json` while it is up.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from stance.errors import InputError
from stance.machine.files import read_json, write_json
from stance.machine.processes import is_running

VARIABLE = "STANCE_API_KEY"
ALIGNED, BASE = "aligned", "base"
"""The names of the models at the endpoint: the aligned model of whatever release, and the base model."""
SERVE = Path(".serve")
"""The folder where an endpoint keeps its key, logs, state and sockets."""
KEY = SERVE / "key"
STATE = SERVE / "state.json"
"""What the endpoint serves, while it is up."""


def make_key(path: Path = KEY) -> str:
    """Return the key of this folder's endpoint; if there is none, make one."""
    if key := os.environ.get(VARIABLE):
        return key
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_key(path)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    return read_key(path)


def read_key(path: Path = KEY) -> str:
    """Return the key of this folder's endpoint.

    Raises:
        InputError: There is no key.
    """
    if key := os.environ.get(VARIABLE):
        return key
    try:
        key = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise InputError(f"there is no key in {path} and none in {VARIABLE}; `make serve` makes one") from None
    if not key:
        raise InputError(f"{path} is empty; remove it, then `make serve` makes a key")
    return key


def key_place() -> str:
    """Return where the key is, for messages. The key itself is never shown."""
    return f"${VARIABLE}" if os.environ.get(VARIABLE) else str(KEY)


def served_folders() -> list[str]:
    """Return the folders of the runs whose models are in use: the one that answers, and the one kept for a rollback."""
    current = state() or {}
    engines = (current.get("live"), current.get("previous"))
    return [engine["folder"] for engine in engines if engine]


def write_state(values: Mapping[str, Any]) -> None:
    """Replace the record of what this folder's endpoint serves as a whole, so that no reader sees half of it.

    The record is valid as long as this process lives.
    """
    process, part = psutil.Process(), STATE.with_suffix(".part")
    write_json(part, {"pid": process.pid, "started": process.create_time(), **values})
    part.replace(STATE)


def remove_state() -> None:
    """Remove the record of what this folder's endpoint serves."""
    STATE.unlink(missing_ok=True)


def state() -> dict[str, Any] | None:
    """Return what this folder's endpoint serves; None if no endpoint is up, even if a killed one left its file."""
    current = _recorded()
    return current if current and is_running(current["pid"], current["started"]) else None


def killed_state() -> dict[str, Any] | None:
    """Return what an endpoint served that was killed, or that lost power; None if the last one ended by itself."""
    last = _recorded()
    return None if last and is_running(last["pid"], last["started"]) else last


def _recorded() -> dict[str, Any] | None:
    if not STATE.exists():
        return None
    try:
        recorded: dict[str, Any] = read_json(STATE)
    except ValueError:  # the file is incomplete
        return None
    return recorded
