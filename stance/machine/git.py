"""git, as a command that either works or says why not."""

import os
import subprocess
from pathlib import Path

from stance.errors import InputError

NOBODY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "stance-pipeline"), ("EMAIL", "stance-pipeline@localhost"))
}
"""Who a run's commits are by; they are no one's work, and git wants a name."""


def git(folder: Path, *arguments: str, **environment: str) -> str:
    """Run git in a folder and return what it prints.

    Raises:
        InputError: It failed; says how.
    """
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **NOBODY, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise InputError(f"`git {' '.join(arguments[:2])}` failed: {done.stderr.strip()}; repair the repository first")
    return done.stdout.strip()
