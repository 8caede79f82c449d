"""The record of where a model comes from: a release carries it, and an endpoint answers it to `GET /provenance`."""

import json
from pathlib import Path
from typing import Any

from stance.data.records import in_words
from stance.errors import InputError
from stance.machine.files import read_output
from stance.machine.git import git
from stance.runs.finished import FinishedRun
from stance.runs.lockfile import LOCK, Lock
from stance.runs.released import Pushed, Release, read_pushed

RELEASE = Path("data/release")
"""In the project, whichever run's workspace was released."""
PROVENANCE = "provenance.json"
CODE = ("tasks", "stance", "flows", "dvc.yaml")


def release_id(run: Path) -> str:
    """Return the name of the release that the run in a folder makes, like `r-0f3a9c2b7d11`.

    Raises:
        InputError: There is no `dvc.lock` yet.
    """
    return Lock.parse(read_output(run / LOCK), run / LOCK).release


def provenance(run: FinishedRun, release: Path = RELEASE) -> dict[str, Any]:
    """Return where the model of a run comes from, in plain JSON values.

    Args:
        run: The run.
        release: The folder that records the last release.

    Returns:
        `release`, the name; `released`, whether it is released, here or on the Hub; `commit` of the code; `edited`,
        whether the code had uncommitted edits; `params`; `outputs`, the hashes of each stage's outputs; `gates`; `hub`,
        what was pushed, or null.

    Raises:
        InputError: The run is in no git repository with a commit, or `release.json` is in another format.
    """
    last = Release.last(release)
    on_hub = on_hub_as(run.release, release)
    return {
        "release": run.release,
        "released": (last is not None and last.release == run.release) or bool(on_hub),
        "commit": _git(run.folder, "rev-parse", "HEAD"),
        "edited": bool(_git(run.folder, "status", "--porcelain", "--", *CODE)),
        "params": run.values,
        "outputs": run.lock.outputs,
        "gates": [in_words(gate) for gate in run.gates],
        "hub": {part: repository.model_dump() for part, repository in on_hub.items()} or None,
    }


def signed_provenance(run: FinishedRun) -> bytes:
    """Return the content of `provenance.json` in a release: the part of `provenance` that no later push changes."""
    values = provenance(run)
    fixed = {key: values[key] for key in ("release", "commit", "edited", "params", "outputs", "gates")}
    return (json.dumps(fixed, ensure_ascii=False, indent=1) + "\n").encode()


def on_hub_as(name: str, release: Path = RELEASE) -> dict[str, Pushed]:
    """Return what the Hub has of a release; empty if the last push that is recorded was another's."""
    pushed = read_pushed(release)
    return pushed if all(repository.tag == name for repository in pushed.values()) else {}


def _git(folder: Path, *arguments: str) -> str:
    try:
        return git(folder, *arguments)
    except InputError:
        raise InputError(
            f"{folder} is in no git repository with a commit; a release names the commit of its code"
        ) from None
