"""`data/release`: the release that counts here, as files, and the one before it while the new one is tried.

`record` puts a `FinishedRun` there as a whole; `restore_previous` goes back. The weights are hard links to those of the
run where the disk allows, so that a release costs no space.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stance.machine.digests import Digest, link
from stance.machine.files import write_json
from stance.runs.finished import GATES, PARAMS, RESPONSES, FinishedRun
from stance.runs.lockfile import LOCK
from stance.runs.provenance import PUSHED, RECORD, RELEASE, provenance, pushed

BESIDE = (PARAMS, LOCK, GATES, RESPONSES)
"""The small files of the run that stand beside the two models."""
BEFORE = RELEASE.with_name("release.before")
"""The previous release, for as long as the engine may still refuse the new one."""
PART = RELEASE.with_name("release.part")
"""A release that is being written."""
PROVENANCE = "provenance.json"
"""The provenance of the model for a server in a container, which has no checkout of the run."""


def record(run: FinishedRun, on_hub: Mapping[str, Any], measured: Mapping[str, Any]) -> FinishedRun:
    """Replace the release in `data/release`; the previous one, perhaps none, is in `BEFORE` then.

    Args:
        run: The run, with the digests of both models.
        on_hub: What was pushed of it just now, if it was.
        measured: The values that a later release is compared by.

    Returns:
        The run with the stat values that linking its weights left.

    Raises:
        InputError: A file was changed since it was checked.
    """
    run.require_untouched(run.digests)
    shutil.rmtree(PART, ignore_errors=True)
    linked = {path: _link(run, path, digest) for path, digest in run.digests.items()}
    for path in BESIDE:
        (PART / path.name).write_bytes(run.contents[path])
    entry = {"release": run.release, "run": run.name, "at": datetime.now(UTC).isoformat()}
    if on_hub:
        write_json(PART / PUSHED, on_hub)
    elif pushed(run.release):
        shutil.copy(RELEASE / PUSHED, PART)
    write_json(PART / RECORD, {**entry, **measured})
    write_json(PART / PROVENANCE, provenance(run, PART))
    RELEASE.mkdir(exist_ok=True)
    RELEASE.rename(BEFORE)
    PART.rename(RELEASE)
    return replace(run, digests=linked)


def _link(run: FinishedRun, path: str, digest: Digest) -> Digest:
    return link(run.folder / path, PART / Path(path).relative_to("data"), digest)


def restore_previous() -> None:
    """Put back the release before one that did not come to its end, if there is such a one."""
    if not BEFORE.exists():
        return
    shutil.rmtree(RELEASE, ignore_errors=True)
    BEFORE.rename(RELEASE)
    if not any(RELEASE.iterdir()):
        RELEASE.rmdir()
