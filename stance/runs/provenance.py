"""Which run made this model: what a release carries, and what an endpoint answers when a client asks.

A release is named by the digest of its `dvc.lock`, which holds the hash of every input, parameter and output: the same
lock, the same release.
"""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

from stance.data.records import gates_in_words
from stance.errors import InputError
from stance.machine.files import read_json, read_yaml
from stance.runs.lockfile import changed, outputs

RELEASE = Path("data/release")
"""In the project, whichever run's workspace was released."""
RECORD = "release.json"
PUSHED = "push.json"


def release_id(run: Path) -> str:
    """Return the name of the release that a run makes, like `r-0f3a9c2b7d11`; also its tag on the Hub.

    Raises:
        InputError: Nothing was made there yet.
    """
    try:
        lock = (run / "dvc.lock").read_bytes()
    except FileNotFoundError:
        raise InputError(f"{run / 'dvc.lock'} does not exist; expected a finished run: `make repro` first") from None
    return f"r-{hashlib.sha256(lock).hexdigest()[:12]}"


def provenance(run: Path, release: Path = RELEASE) -> dict[str, Any]:
    """Return where the model of a run comes from, in plain JSON values.

    Args:
        run: The project, or a workspace of it, with every stage finished.
        release: Where what was released last is recorded.

    Returns:
        `release`, its name; `released`, whether it is, here or on the Hub; `commit` of the code and `edited`, whether
        that had uncommitted edits; `changed`, which parameters and files are not what the model was made from;
        `params`; `outputs`, each stage's with its hash; `gates`; `hub`, what was pushed, or null.

    Raises:
        InputError: The run has not been evaluated.
    """
    name = release_id(run)
    recorded = read_json(release / RECORD) if (release / RECORD).exists() else {}
    on_hub = pushed(name, release)
    return {
        "release": name,
        "released": recorded.get("release") == name or on_hub,
        "commit": _git(run, "rev-parse", "HEAD"),
        "edited": bool(_git(run, "status", "--porcelain", "--", "tasks", "stance", "flows", "dvc.yaml")),
        "changed": changed(run),
        "params": read_yaml(run / "params.yaml"),
        "outputs": outputs(run),
        "gates": gates_in_words(run / "data/evaluation/gates.json"),
        "hub": read_json(release / PUSHED) if on_hub else None,
    }


def pushed(name: str, release: Path = RELEASE) -> bool:
    """Is what is recorded of the Hub this release?"""
    known: dict[str, Any] = read_json(release / PUSHED) if (release / PUSHED).exists() else {}
    return bool(known) and all(repo["tag"] == name for repo in known.values())


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{folder} is in no git repository with a commit; a release names the commit that made it")
    return done.stdout.strip()
