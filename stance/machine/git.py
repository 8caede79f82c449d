"""git, run as a command: `git` returns what it prints or explains its failure, `attempt` leaves that to the caller."""

import os
import subprocess
from pathlib import Path

from stance.errors import OF_A_HOOK, InputError

NOBODY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "stance-pipeline"), ("EMAIL", "stance-pipeline@localhost"))
}
"""Author and committer of a run's commits, which git requires."""


def git(folder: Path, *arguments: str, **environment: str) -> str:
    """Run git in a folder and return what it prints.

    Raises:
        InputError: git failed; quotes its message.
    """
    ended = attempt(folder, *arguments, **environment)
    if ended.returncode:
        message = ended.stderr.decode(errors="replace").strip()
        raise InputError(f"`git {' '.join(arguments[:2])}` failed: {message}; repair the repository first")
    return ended.stdout.decode().strip()


def attempt(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """Run git in a folder and return how it ended, with its output as bytes."""
    ours = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK}
    variables = {**ours, **NOBODY, **environment}
    return subprocess.run(["git", *arguments], cwd=folder, env=variables, capture_output=True)
