"""Write `params.yaml` for another profile: `python -m tasks.profile NAME [KEY=VALUE ...]`."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import yaml

from tasks.errors import InputError, run
from tasks.params import PROFILES, compose, read_yaml


def profile(name: str, assignments: list[str], out: Path) -> None:
    """Write a profile to `out`, some of its values replaced.

    Without replacements it is the profile's file itself, comments included.

    Raises:
        InputError: The profile or a key does not exist, a value is wrong, or `out` holds edits that are nowhere else.
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
    """Edits are safe if git has them, or if the file is just one of the profiles."""
    if not path.exists() or any(read_yaml(path) == read_yaml(known) for known in PROFILES.glob("*.yaml")):
        return
    status = subprocess.run(["git", "status", "--porcelain", "--", str(path)], capture_output=True, text=True)
    if status.returncode or status.stdout.strip():
        raise InputError(
            f"{path} has uncommitted edits, which another profile would overwrite; commit them, or drop them with "
            f"`git checkout {path}`"
        )


def main() -> None:
    """Write `params.yaml`."""
    if len(sys.argv) < 2:
        raise InputError("name a profile, for example `make profile NAME=breeze-7b`")
    profile(sys.argv[1], sys.argv[2:], Path("params.yaml"))


if __name__ == "__main__":
    run(main)
