"""Git, run as someone with a name."""

import subprocess
from pathlib import Path


def git(folder: Path, *command: str) -> str:
    """Run git in a folder and return what it prints."""
    someone = ("-c", "user.name=someone", "-c", "user.email=someone@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *someone, *command], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()
