"""Digests of a file, all taken in one reading, and the stat values by which a later change shows without another.

`read_digest` reads a file once and returns its `Digest`: MD5 for DVC, SHA-256 and git's blob id for the Hugging Face
Hub. `digests` does so for outputs of a run and skips files whose `Stat` is that of an earlier `Digest`. `hand_over` and
`handed_over` pass digests from one process of a user to another.
"""

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from stance.errors import InputError
from stance.machine.files import CHUNK, files_below

TICK = 0.02
"""Seconds; the clock that the kernel stamps files with moves in steps shorter than this."""
ATTEMPTS = 3


class Stat(NamedTuple):
    """The stat values of a file that a change of its content cannot leave as they are.

    A writer moves `mtime_ns`; one who sets that back moves `ctime_ns`, which only the kernel writes; and a file put in
    the place of another has another inode. A new hard link moves `ctime_ns` too: then the file is read once more.
    """

    device: int
    inode: int
    size: int
    """Bytes."""
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: Path | int) -> Self:
        """Return the values of a path, following links, or of an open file."""
        values = os.stat(file)
        return cls(values.st_dev, values.st_ino, values.st_size, values.st_mtime_ns, values.st_ctime_ns)


class Digest(BaseModel):
    """The hashes of a file's content, in hexadecimal, and the file's stat values when they were taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    md5: str
    """DVC's hash."""
    sha256: str
    """git-lfs's hash."""
    blob_id: str
    """git's hash: SHA-1 of a header and the content."""
    stat: Stat

    def fits(self, path: Path) -> bool:
        """Is a file the one that the hashes were taken of, by its stat values?"""
        return self.stat == Stat.of(path)

    def still_holds(self, path: Path) -> bool:
        """Is the content of a file the one that was hashed? Only a file that was touched since is read."""
        return self.fits(path) or read_digest(path).sha256 == self.sha256


Digests = Mapping[str, Digest]
"""Digests by the file's path in the folder of the run."""
DIGESTS = TypeAdapter(dict[str, Digest])


def digests(root: Path, outputs: Iterable[str], earlier: Digests) -> dict[str, Digest]:
    """Return the digest of every file below outputs of a run, in DVC's order.

    Args:
        root: The folder of the run.
        outputs: Files and folders in it.
        earlier: Digests taken before; a file whose stat values are still the same is not read again.

    Raises:
        InputError: A file goes on changing while it is read.
    """
    paths = (path for output in outputs for path in _files(root / output))
    names = [path.relative_to(root).as_posix() for path in paths]
    with ThreadPoolExecutor() as threads:
        return dict(zip(names, threads.map(lambda name: _digest(root / name, earlier.get(name)), names), strict=True))


def _files(output: Path) -> list[Path]:
    return [output] if output.is_file() else files_below(output)


def _digest(path: Path, earlier: Digest | None) -> Digest:
    return earlier if earlier and earlier.fits(path) else read_digest(path)


def read_digest(path: Path) -> Digest:
    """Return the digest of a file, which is read once.

    Raises:
        InputError: The file goes on changing while it is read.
    """
    for _ in range(ATTEMPTS):
        with path.open("rb") as file:
            before = settled(file.fileno())
            hashes = md5, sha256, sha1 = hashlib.md5(usedforsecurity=False), hashlib.sha256(), _blob(before.size)
            while chunk := file.read(CHUNK):
                for hashing in hashes:
                    hashing.update(chunk)
            if Stat.of(file.fileno()) == before == Stat.of(path):
                return Digest(md5=md5.hexdigest(), sha256=sha256.hexdigest(), blob_id=sha1.hexdigest(), stat=before)
    raise InputError(f"{path} changed {ATTEMPTS} times while it was read; end whatever writes it, and try again")


def _blob(size: int) -> "hashlib._Hash":
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def settled(file: int) -> Stat:
    """Return the stat values of an open file, once a change of it would show in them.

    The kernel's clock stands still between two ticks, and two changes within one leave the same times.
    """
    if abs(time.time_ns() - Stat.of(file).ctime_ns) < TICK * 1e9:
        time.sleep(TICK)
    return Stat.of(file)


def copy(source: Path, target: Path, digest: Digest) -> None:
    """Copy a file that was hashed, so that no later change of it reaches the copy. Nobody may write to the copy.

    On disks that can share blocks between files (btrfs, XFS) the copy takes no space.

    Raises:
        InputError: The file was changed since it was hashed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file, target.open("xb") as held:
        try:
            while os.copy_file_range(file.fileno(), held.fileno(), 2**30):
                pass
        except OSError:  # two disks, and a kernel that cannot do that
            shutil.copyfileobj(file, held, CHUNK)
        held.flush()
        os.fchmod(held.fileno(), 0o444)
    if not digest.still_holds(source):
        raise InputError(f"{source} was changed since it was checked; release it again")


def hand_over(path: Path, taken: Digests) -> None:
    """Write digests to a file that only this user can read, for a process that this one starts."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(DIGESTS.dump_json(dict(taken)))


def handed_over(path: Path | None) -> dict[str, Digest]:
    """Return the digests in a file that `hand_over` wrote, and none from a file that another user can have written.

    They spare a reading only where they fit: `digests` compares the stat values of each file, and whoever uses the
    hashes compares them with `dvc.lock`.
    """
    with suppress(OSError, ValidationError):
        if path:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                values = os.fstat(file.fileno())
                private = stat.S_ISREG(values.st_mode) and not values.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
                if private and values.st_uid == os.geteuid():
                    return DIGESTS.validate_json(file.read())
    return {}
