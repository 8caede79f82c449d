"""A model repository on the Hugging Face Hub, down to files that are known to be what the Hub says they are.

`HF_ENDPOINT`, `HF_HOME` and the token (`HF_TOKEN` or `hf auth login`) are huggingface_hub's own business; no
token passes through here. Files land in its cache. Each is read again after the download and compared with
the hash that the Hub lists; whatever differs is removed, so that the next attempt fetches it anew.
"""

import errno
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, ModelInfo, constants, get_session, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stance.errors import InputError, Unreachable
from stance.machine.files import GIB, File, blob_id, digest

logger = logging.getLogger(__name__)


SECONDS_TO_ANSWER = 6.0
PAUSES = (1, 3)
# httpx.HTTPError or httpx2.HTTPError, whichever this version of huggingface_hub is built on.
TransportError: type[Exception] = HfHubHTTPError.__bases__[0]
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """What the Hub says about a file."""

    size: int
    blob_id: str
    """git's name of the content, or of the pointer to it where `sha256` is set."""
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


def look_up(repo_id: str, revision: str) -> Listing:
    """Resolve a branch, tag or commit, and list what is there.

    Raises:
        InputError: There is no such repository or revision, or it may not be read.
        Unreachable: The Hub does not answer.
    """
    with _explained(repo_id, revision):
        info = _patiently(
            lambda: HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=SECONDS_TO_ANSWER)
        )
    return listed(repo_id, info)


def listed(repo_id: str, info: ModelInfo) -> Listing:
    """Return the files that the Hub has told of."""
    assert info.sha is not None
    entries = {
        file.rfilename: Entry(file.size or 0, file.blob_id or "", file.lfs.sha256 if file.lfs else None)
        for file in info.siblings or []
    }
    return Listing(repo_id, info.sha, entries)


def fetch(listing: Listing, names: Iterable[str]) -> tuple[Path, dict[str, File]]:
    """Return the folder that holds the named files, and what they hold; download those that are not cached.

    Raises:
        InputError: The disk is too small, or a file is not what the Hub lists.
        Unreachable: The Hub does not answer.
    """
    names = sorted(names)
    _require_disk(listing, names)
    with _explained(listing.repo_id, listing.commit):
        folder = _patiently(
            lambda: snapshot_download(
                listing.repo_id,
                revision=listing.commit,
                allow_patterns=[escape(name) for name in names],
                etag_timeout=SECONDS_TO_ANSWER,
            )
        )
    with ThreadPoolExecutor() as threads:
        verified = threads.map(lambda name: _verified(listing, Path(folder) / name), names)
        return Path(folder), dict(zip(names, verified, strict=True))


def cached(repo_id: str, commit: str, name: str) -> Path | None:
    """Return where the cache holds a file, without asking the Hub."""
    path = try_to_load_from_cache(repo_id, name, revision=commit)
    return Path(path) if isinstance(path, str) else None


def whoami(token: str) -> dict[str, Any] | None:
    """Return what the Hub says of a token and whose it is; None if it does not accept it.

    Raises:
        InputError: There is no Hub at this endpoint, or it may not be asked.
        Unreachable: The Hub does not answer.
    """
    address, way_out = f"{constants.ENDPOINT}/api/whoami-v2", "check the network, or set hub.push to false"
    try:  # not HfApi.whoami, which waits for ever
        answer = get_session().get(address, headers={"authorization": f"Bearer {token}"}, timeout=SECONDS_TO_ANSWER)
    except UnicodeEncodeError:  # no header can hold such a token
        return None
    except OfflineModeIsEnabled:
        raise InputError("HF_HUB_OFFLINE is set; unset it, or set hub.push to false") from None
    except TransportError as error:  # its message may quote the token
        raise Unreachable(f"{address} cannot be reached ({type(error).__name__}); {way_out}") from None
    if answer.status_code == 401:
        return None
    if answer.status_code != 200:
        kind = Unreachable if is_busy(answer.status_code) else InputError
        raise kind(f"{address} answered {answer.status_code}; try again later, {way_out}")
    try:
        who: dict[str, Any] = answer.json()
    except ValueError:
        raise InputError(f"{address} answers no JSON; unset HF_ENDPOINT, or set hub.push to false") from None
    return who


def discard(path: Path) -> None:
    """Remove a file from the cache: the link in the snapshot and the content it leads to."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _verified(listing: Listing, path: Path) -> File:
    entry, found = listing.files[path.name], digest(path)
    intact = found.sha256 == entry.sha256 if entry.sha256 else blob_id(path.read_bytes()) == entry.blob_id
    if not intact or found.size != entry.size:
        discard(path)
        raise InputError(
            f"{path.name} of {listing} arrived damaged and was removed (found {found.size} bytes, sha256 "
            f"{found.sha256[:12]}; expected {entry.size} bytes, {(entry.sha256 or entry.blob_id)[:12]}); run "
            "it again to fetch it anew"
        )
    return found


def _require_disk(listing: Listing, names: Iterable[str]) -> None:
    missing = [name for name in names if not cached(listing.repo_id, listing.commit, name)]
    needed = sum(listing.files[name].size for name in missing)
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    if needed > free:
        raise InputError(
            f"{listing} needs {needed / GIB:.1f} GiB of disk and {cache} has {free / GIB:.1f} GiB free; "
            "make room, or set HF_HOME to a folder on a larger disk"
        )
    if missing:
        logger.info("%s: fetching %d files, %.2f GiB", listing, len(missing), needed / GIB)


def _patiently(call: Callable[[], T]) -> T:
    for pause in PAUSES:
        try:
            return call()
        except HfHubHTTPError as error:
            if not is_busy(error.response.status_code):
                raise
            logger.info("the Hub answered %d; trying again in %d s", error.response.status_code, pause)
            time.sleep(pause)
    return call()


@contextmanager
def _explained(repo_id: str, revision: str) -> Iterator[None]:
    try:
        yield
    except (TransportError, HFValidationError, OSError) as error:
        kind = Unreachable if may_pass(error) else InputError
        raise kind(_sentence(error, repo_id, revision)) from None


def may_pass(error: Exception) -> bool:
    """Is it worth another try later? A server that is busy or away is; a refusal stays one."""
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error  # nothing here, nobody there
    if isinstance(cause, HfHubHTTPError):
        return is_busy(cause.response.status_code)
    away = isinstance(cause, TransportError | ConnectionError | TimeoutError)
    return away and not isinstance(cause, OfflineModeIsEnabled)


def is_busy(status: int) -> bool:
    """Does a status say that the same may work later?"""
    return status >= 500 or status == 429


def _sentence(error: Exception, repo_id: str, revision: str) -> str:
    endpoint = constants.ENDPOINT
    match error:
        case GatedRepoError():
            return (
                f"{repo_id} is gated and your account has no access; accept its licence at "
                f"{endpoint}/{repo_id}, then log in with `hf auth login` or set HF_TOKEN"
            )
        case RevisionNotFoundError():
            return (
                f"{repo_id} has no revision {revision!r}; set base.revision to one of its branches, tags or "
                f"commits ({endpoint}/{repo_id}/commits/main)"
            )
        case RepositoryNotFoundError():
            return (
                f"{endpoint} shows no model {repo_id} (it does not exist, or is private); correct "
                "base.repo_id, or log in with `hf auth login` or HF_TOKEN as someone who may read it"
            )
        case HFValidationError():
            return f"base.repo_id is {repo_id!r}; expected OWNER/NAME, as in the address of the model's page"
        case HfHubHTTPError():
            return _status_sentence(error, repo_id)
        case OSError(errno=errno.ENOSPC):
            return f"the disk of {constants.HF_HUB_CACHE} is full; make room, or set HF_HOME to a larger disk"
        case PermissionError():
            return f"{error.filename} cannot be written; set HF_HOME to a folder that can"
    return (
        f"{repo_id} cannot be fetched from {endpoint} ({_first_line(error)}); check the network, set "
        "HF_ENDPOINT to a mirror, unset HF_HUB_OFFLINE, or set base.source to folder for a model that is here"
    )


def _status_sentence(error: HfHubHTTPError, repo_id: str) -> str:
    endpoint, status = constants.ENDPOINT, error.response.status_code
    if status == 401:
        return f"{endpoint} does not accept your token; log in with `hf auth login`, or correct HF_TOKEN"
    if status == 403:
        return f"your token may not read {repo_id}; give it read access at {endpoint}/settings/tokens"
    return f"{endpoint} answered {status} for {repo_id}; try again later, or set HF_ENDPOINT to a mirror"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
