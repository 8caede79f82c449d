"""`data/release`: what is released, and what was released before."""

import os
import shutil

from stance.runs.provenance import RELEASE

BESIDE = ("params.yaml", "dvc.lock", "data/evaluation/gates.json", "data/evaluation/responses.json")
"""What a release holds besides the two models."""
BEFORE = RELEASE.with_name("release.before")
"""What was released before, for as long as the engine may still refuse the new one."""
PROVENANCE = "provenance.json"
"""What a server in a container says of the model, which has no checkout of its run."""


def put_back() -> None:
    """Hold what was held before a release that did not come to its end, if there is one such."""
    if not BEFORE.exists():
        return
    shutil.rmtree(RELEASE, ignore_errors=True)
    BEFORE.rename(RELEASE)
    if not any(RELEASE.iterdir()):
        RELEASE.rmdir()


def link(source: str, target: str) -> None:
    """Link a file, or copy it to another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
