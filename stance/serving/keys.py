"""The keys of an endpoint: that of its owner, and named ones with limits (`python -m stance keys`).

The file `.serve/keys.json` holds the SHA-256 of each named key, never the key. An engine reads the file again as soon
as it changes, so that no restart is needed. `Share` counts what each key makes the engine do at the moment.
"""

import argparse
import hashlib
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter

from stance.client.local import SERVE
from stance.errors import InputError
from stance.serving.refusals import Refusal

KEYS = SERVE / "keys.json"
OWNER = "owner"
"""The name of the key in `.serve/key` or `$STANCE_API_KEY`. It has no limit of its own."""
AT_ONCE = 64
"""The sequences that a named key may have at the engine at once, by default: a quarter of `max-num-seqs`."""


class NamedKey(BaseModel):
    """A key with a name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    sha256: str
    at_once: PositiveInt = AT_ONCE
    """Prompts times answers that run at once."""
    created: str = ""


LIST = TypeAdapter(list[NamedKey])


def digest(key: str) -> str:
    """Return the SHA-256 of a key."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def read_keys(path: Path = KEYS) -> list[NamedKey]:
    """Return the named keys.

    Raises:
        InputError: The file is none that `python -m stance keys` has written.
    """
    try:
        return LIST.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise InputError(
            f"{path} is no list of keys ({str(error).splitlines()[0]}); remove it, and add the keys again: "
            "python -m stance keys add NAME"
        ) from None


def write_keys(keys: list[NamedKey], path: Path = KEYS) -> None:
    """Replace the named keys as a whole, so that no engine reads half of the file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_bytes(LIST.dump_json(keys, indent=1))
    part.replace(path)


def add(name: str, at_once: int = AT_ONCE, path: Path = KEYS) -> str:
    """Make a key with a name, and return the key, which is kept nowhere.

    Raises:
        InputError: There is a key of that name, or the name or the limit cannot be used.
    """
    keys, key = read_keys(path), secrets.token_urlsafe(32)
    if name == OWNER or name in {known.name for known in keys}:
        raise InputError(
            f"there is a key {name} already; take another name, or revoke it: python -m stance keys revoke {name}"
        )
    try:
        created = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        write_keys([*keys, NamedKey(name=name, sha256=digest(key), at_once=at_once, created=created)], path)
    except ValueError:
        raise InputError(
            f"a key cannot have the name {name!r} and the limit {at_once}; expected letters, digits, dots and hyphens, "
            "and a number from 1"
        ) from None
    return key


def revoke(name: str, path: Path = KEYS) -> None:
    """Remove the key of a name; the next request with it is refused.

    Raises:
        InputError: There is no such key.
    """
    keys = read_keys(path)
    left = [known for known in keys if known.name != name]
    if len(left) == len(keys):
        names = ", ".join(known.name for known in keys) or "none; python -m stance keys add NAME makes one"
        raise InputError(f"there is no key {name}; expected one of: {names}")
    write_keys(left, path)


class Keys:
    """The keys that an engine accepts, as they are at the moment."""

    def __init__(self, owner: str, path: Path = KEYS) -> None:
        """Take the owner's key and the file of the named ones."""
        self.owner = NamedKey(name=OWNER, sha256=digest(owner), at_once=2**31)
        self.path = path
        self.version: tuple[int, int] | None = None
        self.named: list[NamedKey] = []

    def holder(self, authorization: str) -> NamedKey:
        """Return the key in the header `Authorization`.

        Raises:
            Refusal: The header has no key, or one that is not accepted.
        """
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise refused(
                "no key was sent; expected the header Authorization: Bearer KEY; ask whoever runs the endpoint for one"
            )
        self.refresh()
        sent = digest(key.strip())
        holders = [known for known in [self.owner, *self.named] if secrets.compare_digest(known.sha256, sent)]
        if not holders:
            raise refused(
                "the key is not accepted; it is wrong, or was revoked: ask whoever runs the endpoint for another"
            )
        return holders[0]

    def refresh(self) -> None:
        """Read the named keys again if their file has changed. No key of a file that cannot be read is accepted."""
        try:
            state = self.path.stat()
        except FileNotFoundError:
            self.version, self.named = None, []
            return
        if (version := (state.st_mtime_ns, state.st_ino)) != self.version:
            try:
                self.version, self.named = version, read_keys(self.path)
            except (InputError, OSError) as error:
                self.named = []
                print(f"named keys are refused: {error}", flush=True)


def refused(message: str) -> Refusal:
    """Return a refusal with status 401."""
    return Refusal(message, status=401, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


class Share:
    """What each key makes the engine do at the moment, so that no named key takes all of it."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.running: Counter[str] = Counter()

    @contextmanager
    def taken(self, key: NamedKey, sequences: int) -> Iterator[None]:
        """Count sequences of a key while they run.

        Raises:
            Refusal: The key would have more at once than it may.
        """
        running = self.running[key.name]
        if running + sequences > key.at_once:
            raise Refusal(
                f"the key {key.name} has {running} answers running, and this request asks for {sequences}; "
                f"the limit is {key.at_once} at once: ask again when some have ended",
                status=429,
                code="too_many_at_once",
                headers={"retry-after": "1"},
            )
        self.running[key.name] += sequences
        try:
            yield
        finally:
            self.running[key.name] -= sequences


def listed() -> str:
    """Return a line for each named key."""
    keys = read_keys()
    if not keys:
        return "there are no named keys; make one: python -m stance keys add NAME"
    return "\n".join(f"{key.name:20} at most {key.at_once} answers at once, made {key.created}" for key in keys)


def main() -> None:
    """Run the action that the command line names."""
    parser = argparse.ArgumentParser(
        description="Make, list and revoke named keys of this folder's endpoint, which needs no restart for that."
    )
    parser.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=["list", "add", "revoke"],
        help="list: show names and limits (default); add: make a key and print it once, as only its SHA-256 is kept; "
        "revoke: refuse a key from now on",
    )
    parser.add_argument("name", nargs="?", help="for whom the key is; add and revoke need it")
    parser.add_argument(
        "--at-once", type=int, default=AT_ONCE, help="the answers that may run at once (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.action == "list":
        print(listed())
        return
    if not options.name:
        raise InputError(f"no name was given; expected: python -m stance keys {options.action} NAME")
    if options.action == "add":
        print(add(options.name, options.at_once))
    else:
        revoke(options.name)
        print(f"revoked: {options.name}")
