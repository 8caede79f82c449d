"""`data/release`: the release that counts here, as files, and the one before it while the new one is tried.

`release_gates` decides whether a `FinishedRun` may be released, `record` puts it there as a whole, `restore_previous`
goes back. The files are copies that nobody may write to, so that what is released cannot change with the run. On disks
that can share blocks (btrfs, XFS), the copies take no space.
"""

import hashlib
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from stance.data.answers import RESPONSES
from stance.data.chat import fingerprint, load_tokenizer
from stance.data.records import GATES, Gate
from stance.errors import InputError
from stance.language.messages import message
from stance.machine.digests import copy
from stance.machine.files import write_json
from stance.runs.finished import MERGED, MODELS, PARAMS, FinishedRun
from stance.runs.lockfile import LOCK
from stance.runs.provenance import PROVENANCE, RELEASE, on_hub_as, provenance
from stance.runs.released import PUSHED, RECORD, Pushed, Release, write_pushed
from stance.runs.signature import SIGNATURE, private_key, sign
from stance.serving.file_checks import tokenizer_gate

BESIDE = (PARAMS, LOCK, GATES, RESPONSES)
"""The small files of the run that stand beside the two models."""
BEFORE = RELEASE.with_name("release.before")
"""The previous release, for as long as the engine may still refuse the new one."""
PART = RELEASE.with_name("release.part")
"""A release that is being written."""


def require_own() -> None:
    """Refuse to replace a release folder that holds something else than a release.

    Raises:
        InputError: `data/release` is a link, or holds a file that no release writes.
    """
    if RELEASE.is_symlink():
        raise InputError(f"{RELEASE} is a link to {RELEASE.resolve()}, which a release would replace; move it away")
    ours = {RECORD, PROVENANCE, PUSHED, SIGNATURE, *(path.name for path in (*BESIDE, *map(Path, MODELS)))}
    present = sorted(path.name for path in RELEASE.iterdir()) if RELEASE.is_dir() else []
    if others := [name for name in present if name not in ours]:
        raise InputError(
            f"{RELEASE / others[0]} was not written by a release, and the next one would remove it; move it away"
        )


def release_gates(run: FinishedRun) -> list[Gate]:
    """Return the gates of a release: those of the run, and those on the tokenizer and the last release."""
    tokenizer = tokenizer_gate(run.base_fingerprint, fingerprint(load_tokenizer(run.folder / MERGED)))
    return [*run.gates, tokenizer, *not_worse(run)]


def not_worse(run: FinishedRun) -> list[Gate]:
    """Compare a run with the last release, if that was asked the same prompts for the same stance.

    Returns:
        One gate. It is passed if the share of answers that hold the stance is at least the lower end of the last
        release's 95% interval.
    """
    last, now = Release.last(RELEASE), release_record(run)
    if last is None or now.stance is None or not now.comparable(last):
        return []
    before, share = last.adherence.interval, now.adherence.share
    assert before is not None
    assert share is not None
    return [
        Gate(
            name="not worse",
            passed=share >= before.low,
            figure=message("share_and_stance", share=share, stance=now.stance),
            bound=message("at_least_last_release", low=before.low, release=last.release, share=before.share),
            advice=message("release_another_run"),
        )
    ]


def release_record(run: FinishedRun) -> Release:
    """Return the record of a release that is made now; a later release is compared with it."""
    adherence = run.metrics.adherence
    return Release(
        release=run.release,
        run=run.name,
        at=datetime.now(UTC).isoformat(),
        test_prompts=run.test_prompts,
        stance=None if adherence.mixed else adherence.stance,
        adherence=adherence,
    )


def record(run: FinishedRun, on_hub: Mapping[str, Pushed]) -> None:
    """Replace the release in `data/release`; the previous one, perhaps none, is in `BEFORE` then.

    Args:
        run: The run.
        on_hub: What was pushed of it just now, if it was.

    Raises:
        InputError: A file of the run was changed since it was checked.
    """
    run = run.again()
    require_own()
    shutil.rmtree(PART, ignore_errors=True)
    for model in MODELS:
        for name, digest in run.files(model).items():
            copy(run.folder / model / name, PART / Path(model).name / name, digest)
    for path in BESIDE:
        (PART / path.name).write_bytes(run.contents[path])
    if on_hub or (on_hub := on_hub_as(run.release)):
        write_pushed(on_hub, PART)
    release_record(run).write(PART)
    write_json(PART / PROVENANCE, provenance(run, PART))
    write_signature(run)
    RELEASE.mkdir(exist_ok=True)
    RELEASE.rename(BEFORE)
    PART.rename(RELEASE)


def write_signature(run: FinishedRun) -> None:
    """Sign the files of the release that is being written; those of the models are not read again."""
    small = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in PART.iterdir() if path.is_file()}
    large = {f"{Path(model).name}/{name}": found.sha256 for model in MODELS for name, found in run.files(model).items()}
    (PART / SIGNATURE).write_bytes(sign(run.release, small | large, private_key()))


def restore_previous() -> None:
    """Put back the release before one that did not come to its end, if there is such a one."""
    if not BEFORE.exists():
        return
    shutil.rmtree(RELEASE, ignore_errors=True)
    BEFORE.rename(RELEASE)
    if not any(RELEASE.iterdir()):
        RELEASE.rmdir()
