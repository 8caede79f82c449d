"""Download of models from the Hugging Face Hub, with a check of every file.

huggingface_hub itself handles `HF_ENDPOINT`, `HF_HOME` and the token (`HF_TOKEN` or `hf auth login`), and stores files
in its cache. After the download every file is read again and compared with the hash that the Hub lists. A file that
differs is removed, so that the next attempt fetches it again. Only `whoami` receives a token.
"""

import logging
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any

from huggingface_hub import (
    HfApi,
    ModelInfo,
    constants,
    get_session,
    hf_raise_for_status,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from stance.errors import InputError
from stance.machine.files import File, blob_id, digest
from stance.machine.memory import GIB, gib
from stance.models.hub_errors import FETCH_PATIENCE, Action, explained, patiently

logger = logging.getLogger(__name__)


SECONDS_TO_ANSWER = 6.0


@dataclass(frozen=True)
class Entry:
    """Size and hash of a file, as the Hub lists them."""

    size: int
    blob_id: str
    """SHA-1 by which git names the file, or the pointer to the file if `sha256` is set."""
    sha256: str | None

    @property
    def held(self) -> tuple[int, str]:
        """Size and hash."""
        return self.size, self.sha256 or self.blob_id


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    repo_id: str
    commit: str
    files: dict[str, Entry]

    def __str__(self) -> str:
        """Return repository and commit, for messages."""
        return f"{self.repo_id} at {self.commit[:12]}"


def look_up(repo_id: str, revision: str, action: Action = "fetch") -> Listing:
    """Resolve a branch, tag or commit, and list its files.

    Args:
        repo_id: The repository.
        revision: The branch, tag or commit.
        action: What the model is fetched for; the advice in an error depends on it.

    Raises:
        InputError: There is no such repository or revision, or your token may not read it.
        Unreachable: The Hub does not answer.
    """
    with explained(repo_id, action, revision):
        info = patiently(
            lambda: HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=SECONDS_TO_ANSWER),
            FETCH_PATIENCE,
        )
    return listed(repo_id, info)


def listed(repo_id: str, info: ModelInfo) -> Listing:
    """Return the files in an answer of the Hub."""
    assert info.sha is not None
    entries = {
        file.rfilename: Entry(file.size or 0, file.blob_id or "", file.lfs.sha256 if file.lfs else None)
        for file in info.siblings or []
    }
    return Listing(repo_id, info.sha, entries)


def fetch(listing: Listing, names: Iterable[str], action: Action = "fetch") -> tuple[Path, dict[str, File]]:
    """Download files that are not in the cache; return the folder that holds all of them, and their hashes and sizes.

    Args:
        listing: The repository at one commit.
        names: The files.
        action: As for `look_up`.

    Raises:
        InputError: The disk is too small, or a file differs from its hash.
        Unreachable: The Hub does not answer.
    """
    names = sorted(names)
    if not sys.stderr.isatty():
        disable_progress_bars()
    _require_disk(listing, names)
    with explained(listing.repo_id, action, listing.commit):
        folder = patiently(
            lambda: snapshot_download(
                listing.repo_id,
                revision=listing.commit,
                allow_patterns=[escape(name) for name in names],
                etag_timeout=SECONDS_TO_ANSWER,
            ),
            FETCH_PATIENCE,
        )
    with ThreadPoolExecutor() as threads:
        verified = threads.map(lambda name: _verified(listing, Path(folder) / name), names)
        return Path(folder), dict(zip(names, verified, strict=True))


def cached(repo_id: str, commit: str, name: str) -> Path | None:
    """Return the path of a file in the cache, or None, without a request to the Hub."""
    path = try_to_load_from_cache(repo_id, name, revision=commit)
    return Path(path) if isinstance(path, str) else None


def whoami(token: str) -> dict[str, Any] | None:
    """Return the owner and the rights of a token; None if the Hub does not accept the token.

    Raises:
        InputError: There is no Hub at this endpoint, or HF_HUB_OFFLINE is set.
        Unreachable: The Hub does not answer.
    """
    address = f"{constants.ENDPOINT}/api/whoami-v2"
    with explained(address, "whoami"):
        try:  # not HfApi.whoami, which has no time limit
            answer = get_session().get(address, headers={"authorization": f"Bearer {token}"}, timeout=SECONDS_TO_ANSWER)
        except UnicodeEncodeError:  # no header can hold such a token
            return None
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            return None
        hf_raise_for_status(answer)
    try:
        who: dict[str, Any] = answer.json()
    except ValueError:
        raise InputError(f"{address} answers no JSON; unset HF_ENDPOINT, or set hub.push to false") from None
    return who


def discard(path: Path) -> None:
    """Remove a file from the cache: the link in the snapshot, and the content that it points to within the cache.

    A link to a file elsewhere was made by somebody who keeps models there; that file stays.
    """
    content, cache = path.resolve(), Path(constants.HF_HUB_CACHE).resolve()
    if content.is_relative_to(cache):
        content.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _verified(listing: Listing, path: Path) -> File:
    entry, file = listing.files[path.name], digest(path)
    intact = file.sha256 == entry.sha256 if entry.sha256 else blob_id(path.read_bytes()) == entry.blob_id
    if not intact or file.size != entry.size:
        discard(path)
        raise InputError(
            f"{path.name} of {listing} arrived damaged and was removed (found {file.size} bytes, sha256 "
            f"{file.sha256[:12]}; expected {entry.size} bytes, {(entry.sha256 or entry.blob_id)[:12]}); run "
            "it again to fetch the file again"
        )
    return file


def _require_disk(listing: Listing, names: Iterable[str]) -> None:
    missing = [name for name in names if not cached(listing.repo_id, listing.commit, name)]
    needed = sum(listing.files[name].size for name in missing)
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    if needed > free:
        raise InputError(
            f"{listing} needs {gib(needed)} GiB of disk and {cache} has {gib(free)} GiB free; "
            "make room, or set HF_HOME to a folder on a larger disk"
        )
    if missing:
        logger.info("%s: fetching %d files, %.2f GiB", listing, len(missing), needed / GIB)
