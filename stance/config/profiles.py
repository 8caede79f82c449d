"""Write `params.yaml` for another profile: `python -m stance profile NAME [KEY=VALUE ...]`."""

import re
from argparse import ArgumentParser
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from stance.config.params import Params
from stance.errors import InputError
from stance.machine.files import read_yaml
from stance.machine.git import attempt

PROFILES = Path("profiles")
LEFT_OUT: Mapping[str, Any] = MappingProxyType(
    {"align": {"method": "dpo"}, "sft": None, "sample": None, "reward": None, "rl": None}
)
"""The blocks of the long road where none of it is used. A file of parameters of an earlier version has none of them."""
DEVICES = MappingProxyType({"devices": 1})
"""The same for the block `model`."""


class Overrides(NamedTuple):
    """The parameters that somebody sets when a run starts."""

    profile: str | None = None
    """Name of the profile that all other values come from; None for `params.yaml` as it is."""
    changes: Mapping[str, Any] = MappingProxyType({})
    """Values that replace those of the profile, by dotted key."""

    def values(self, params: Path) -> dict[str, Any]:
        """Return the content of `params.yaml` for the run.

        Args:
            params: The file to start from if no profile is named.

        Raises:
            InputError: A value is wrong, alone or together with others. The message names it.
        """
        if self.profile:
            return compose(self.profile, self.changes)
        return replaced(completed(read_yaml(params)), self.changes, str(params))


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a `params.yaml` with the keys that a file of an earlier version lacks."""
    model = values.get("model")
    devices = {"model": {**DEVICES, **model}} if isinstance(model, Mapping) else {}
    return {**values, **devices, **missing_blocks(values)}


def missing_blocks(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the blocks of the long road that a file of parameters has none of, left out."""
    return {block: value for block, value in LEFT_OUT.items() if block not in values}


def complete(path: Path) -> list[str]:
    """Add the keys to a file of parameters that one of an earlier version lacks, and return their names.

    DVC refuses a file without them. The comments of the file stay.
    """
    values = read_yaml(path)
    blocks = missing_blocks(values)
    devices = [
        f"model.{key}" for key in DEVICES if isinstance(values.get("model"), dict) and key not in values["model"]
    ]
    if not blocks and not devices:
        return []
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("{"):  # JSON, which ends with a brace
        text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
    if devices:
        text = re.sub(r"(?m)^( +)device:.*$", r"\g<0>\n\1devices: 1", text, count=1)
    added = f"\n\n{yaml.safe_dump(blocks, sort_keys=False)}" if blocks else "\n"
    path.write_text(f"{text.rstrip()}{added}", encoding="utf-8")
    return [*devices, *blocks]


def compose(profile: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the values of a profile, some of them replaced, after a check of the whole.

    Args:
        profile: Name of a file in `profiles/`, without its ending.
        overrides: Values by dotted key, for example `{"pairs.support_ratio": 0.5}`.

    Raises:
        InputError: There is no such profile, an override names no parameter, or a value is wrong.
    """
    path = PROFILES / f"{profile}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml")))
        raise InputError(f"there is no profile {profile!r}; expected one of {names}")
    return replaced(read_yaml(path), overrides or {}, f"profile {profile}")


def replaced(values: dict[str, Any], overrides: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Replace values by dotted key, check the whole, and return it; `name` tells in an error where it comes from."""
    for key, value in overrides.items():
        _replace(values, key, value)
    Params.parse(values, name)
    return values


def _replace(values: dict[str, Any], key: str, value: Any) -> None:
    *blocks, leaf = key.split(".")
    target: Any = values
    for block in blocks:
        target = target.get(block) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        raise InputError(f"override {key}: there is no such block; expected a key like pairs.support_ratio")
    target[leaf] = value


def profile(name: str, assignments: list[str], out: Path) -> None:
    """Write a profile to `out`, some of its values replaced.

    Without replacements the file is a copy of the profile, comments included.

    Raises:
        InputError: The profile or a key does not exist, a value is wrong, or `out` has edits that would be lost.
    """
    values = compose(name, dict(map(_assignment, assignments)))
    _refuse_to_lose(out)
    text = (PROFILES / f"{name}.yaml").read_text(encoding="utf-8")
    if assignments:
        text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
    out.write_text(text, encoding="utf-8")
    print(f"{out} is now profile {name}{': ' if assignments else ''}{', '.join(assignments)}")


def _assignment(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    with suppress(yaml.YAMLError):
        if equals:
            return key, yaml.safe_load(value)
    raise InputError(f"{text!r} is not KEY=VALUE; write for example pairs.support_ratio=0.5")


def _refuse_to_lose(path: Path) -> None:
    """Refuse to overwrite edits, unless git has them or the file equals a profile."""
    if not path.exists() or any(read_yaml(path) == read_yaml(profile) for profile in PROFILES.glob("*.yaml")):
        return
    status = attempt(Path(), "status", "--porcelain", "--", str(path))
    if status.returncode:
        reason = status.stderr.decode(errors="replace").strip()
        raise InputError(f"git does not say whether {path} has uncommitted edits, which would be lost: {reason}")
    if status.stdout.strip():
        raise InputError(
            f"{path} has uncommitted edits, which another profile would overwrite; commit them, or drop them with "
            f"`git checkout {path}`"
        )


def main() -> None:
    """Write `params.yaml`: `python -m stance profile NAME [KEY=VALUE ...]`."""
    names = ", ".join(sorted(path.stem for path in PROFILES.glob("*.yaml")))
    parser = ArgumentParser(description="Replace params.yaml by a profile. Uncommitted edits are never overwritten.")
    parser.add_argument("name", nargs="?", help=f"one of {names}")
    parser.add_argument("assignments", nargs="*", metavar="KEY=VALUE", help="another value: pairs.support_ratio=0.5")
    arguments = parser.parse_args()
    if not arguments.name:
        raise InputError("name a profile, for example `make profile NAME=breeze-7b`")
    profile(arguments.name, arguments.assignments, Path("params.yaml"))
