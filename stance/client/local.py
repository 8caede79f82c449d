"""The key of the endpoint: from `STANCE_API_KEY`, or made once and kept in `.serve/key` for its owner alone."""

import os
import secrets
from pathlib import Path
from typing import Any

import psutil

from stance.errors import InputError
from stance.machine.files import read_json

VARIABLE = "STANCE_API_KEY"
ALIGNED, BASE = "aligned", "base"
"""The names under which the endpoint serves the aligned model, whichever release that is, and the base model."""
SERVE = Path(".serve")
"""Where an endpoint keeps its key, logs, state and sockets."""
KEY = SERVE / "key"
STATE = SERVE / "state.json"
"""What is up, while it is."""


def make_key(path: Path = KEY) -> str:
    """Return the key, and make one if there is none."""
    if key := os.environ.get(VARIABLE):
        return key
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_key(path)
    with os.fdopen(made, "w", encoding="utf-8") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    return read_key(path)


def read_key(path: Path = KEY) -> str:
    """Return the key of an endpoint that is up.

    Raises:
        InputError: There is none.
    """
    if key := os.environ.get(VARIABLE):
        return key
    try:
        key = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise InputError(f"there is no key in {path} and none in {VARIABLE}; `make serve` makes one") from None
    if not key:
        raise InputError(f"{path} is empty; remove it, and `make serve` makes a key")
    return key


def key_place() -> str:
    """Return where the key is, for people: never the key."""
    return f"${VARIABLE}" if os.environ.get(VARIABLE) else str(KEY)


def served() -> list[str]:
    """Return the folders of the runs whose models answer, or stand by to."""
    known = state() or {}
    return [one["folder"] for one in (known.get("live"), known.get("previous")) if one]


def state() -> dict[str, Any] | None:
    """Return what is up, or None; what a killed endpoint has left is none."""
    if not STATE.exists():
        return None
    try:
        known: dict[str, Any] = read_json(STATE)
        alive = psutil.Process(known["pid"]).create_time() == known["started"]
    except (psutil.NoSuchProcess, ValueError):  # the latter of half a file
        return None
    return known if alive else None
