"""The GPUs of this machine: which of them a process may use, how much memory they have, and leases of them.

A run of a flow leases as many GPUs as a stage needs. A lease is a lock (flock) on a file per GPU, so it ends with its
holder, even after `kill -9`. The file holds the name of the holder. All programs of this project on a machine share the
files, and users may share them, too.

A stage that is started without a flow (`dvc repro`) has no lease. `confine` then leases free GPUs for it, and never
waits. So a stage sees as many GPUs as it uses, however many the machine has.

GPUs have the numbers that `nvidia-smi` gives them. `CUDA_VISIBLE_DEVICES` of the user limits them, by number or by
UUID.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml

from stance.errors import InputError
from stance.machine.locks import locked
from stance.machine.memory import MIB, Room

VISIBLE = "CUDA_VISIBLE_DEVICES"
LEASED = "STANCE_LEASED"
"""In the environment of a stage that has a lease: `VISIBLE` names the leased GPUs and no other."""
QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.free,memory.total", "--format=csv,noheader,nounits")
LOCKS = "stance-pipeline"
"""Start of the names of the lock files, in the system's folder for temporary files."""
SEVERAL = frozenset({"tasks.answers", "tasks.judge", "tasks.sample", "tasks.train"})
"""The stages that use all of `model.devices`; any other stage uses one GPU."""
ON_GPU = SEVERAL | {"tasks.merge", "tasks.reward", "tasks.rl", "tasks.sft"}
"""The stages that hold GPUs. The others hardly compute on a GPU, and share one."""
POLL = 0.2
"""Seconds between two looks for a free GPU."""
PATIENCE = 60
"""Seconds after which an incomplete lease is given up and begun again. Two runs whose users allow them different GPUs
could otherwise wait for each other."""


class Device(NamedTuple):
    """A GPU."""

    name: str
    """How `CUDA_VISIBLE_DEVICES` names it: the number of `nvidia-smi`, or the UUID of a MIG device."""
    uuid: str
    room: Room


UNLISTED = Device("", "gpu", Room(0, 0))
"""Stands for all GPUs where there is no `nvidia-smi`: one lock per machine."""


class Lease(NamedTuple):
    """GPUs that a run holds, in their order, and the locked files.

    It lasts until `end` is called, or until the files are closed in every process that has them.
    """

    devices: tuple[Device, ...] = ()
    files: tuple[IO[str], ...] = ()

    def variables(self) -> dict[str, str]:
        """Return the environment variables by which a stage sees these GPUs only; none without a lease."""
        names = [device.name for device in self.devices if device.name]
        return {VISIBLE: ",".join(names), LEASED: "1"} if names else {}

    def end(self) -> None:
        """Let others have the GPUs, though processes that inherited the files still run."""
        for file in self.files:
            fcntl.flock(file, fcntl.LOCK_UN)


NONE = Lease()


def listed() -> list[Device]:
    """Return all GPUs of this machine by their number; empty where there is no `nvidia-smi` or no GPU."""
    if not shutil.which(QUERY[0]):
        return []
    ended = subprocess.run(QUERY, capture_output=True, encoding="utf-8", errors="replace")
    rows = [line.split(", ") for line in ended.stdout.splitlines() if not ended.returncode]
    return [Device(row[0], row[1], Room(_bytes(row[2]), _bytes(row[3]))) for row in rows if len(row) == 4]


def _bytes(mebibytes: str) -> int:
    return int(mebibytes) * MIB if mebibytes.isdecimal() else 0  # a GPU that is split by MIG has no number here


def visible() -> list[Device]:
    """Return the GPUs that this process may use, in the order in which CUDA numbers them for it."""
    gpus, chosen = listed(), os.environ.get(VISIBLE)
    if chosen is None:
        return gpus
    devices: list[Device] = []
    for name in chosen.split(","):
        device = _named(name.strip(), gpus)
        if device is None:  # CUDA ignores a wrong name and all that follow
            break
        devices.append(device)
    return devices


def _named(name: str, gpus: Sequence[Device]) -> Device | None:
    if name.startswith("MIG-"):
        return Device(name, name, Room(0, 0))
    by_uuid = [gpu for gpu in gpus if name.startswith("GPU-") and gpu.uuid.startswith(name)]  # may be shortened
    return next((gpu for gpu in gpus if gpu.name == name), by_uuid[0] if len(by_uuid) == 1 else None)


def memory(count: int) -> Room:
    """Return the memory of the first `count` visible GPUs together, in bytes, without a CUDA context.

    A model that is split over GPUs takes as much of each. So the GPU with the least memory counts for all.

    Raises:
        InputError: There are fewer GPUs.
    """
    rooms = [device.room for device in _enough(count, visible())[:count]]
    return Room(count * min(room.free for room in rooms), count * min(room.total for room in rooms))


def _enough(count: int, devices: list[Device]) -> list[Device]:
    if count > len(devices):
        raise InputError(
            f"model.devices is {count} and this process may use {len(devices)} GPUs; set it to {max(1, len(devices))}, "
            f"or take a machine with more GPUs (`nvidia-smi` lists them, and {VISIBLE} may hide some)"
        )
    return devices


@contextmanager
def lease(count: int, holder: str, say: Callable[[str], None], folder: Path | None = None) -> Iterator[Lease]:
    """Wait for GPUs and hold them while the block runs.

    Runs that wait are served in turn, so that a run that needs many GPUs is not passed by runs that need few.

    Args:
        count: Number of GPUs; none is held and nobody waits for 0.
        holder: Name of the run and its stage, shown to those who wait.
        say: Receives a sentence if the GPUs must be waited for.
        folder: Folder of the lock files.

    Yields:
        The lease. Its files are open. A process that inherits them holds the GPUs as long as it runs.

    Raises:
        InputError: There are fewer GPUs.
    """
    if not count:
        yield NONE
        return
    pool = _enough(count, visible() or [UNLISTED])
    with ExitStack() as opened:
        with _open(_queue(pool), folder) as queue:
            in_turn = locked(queue)
            if not in_turn or len(pool) - len(holders(pool, folder)) < count:
                say(_waiting(count, pool, folder))
            if not in_turn:
                locked(queue, wait=True)
            files = _take(count, pool, folder)
        for file in files.values():
            opened.callback(file.close)
            _sign(file, holder)
        yield Lease(tuple(files), tuple(files.values()))


def _queue(pool: Sequence[Device]) -> str:
    """Return the name of the lock that those wait for who may use the same GPUs."""
    names = " ".join(sorted(device.uuid for device in pool))
    return f"queue-{hashlib.sha256(names.encode()).hexdigest()[:16]}"


def _take(count: int, pool: Sequence[Device], folder: Path | None) -> dict[Device, IO[str]]:
    """Return the open, locked files of `count` GPUs, as soon as so many are free."""
    taken: dict[Device, IO[str]] = {}
    began = time.monotonic()
    while len(taken) < count:
        for device in pool:
            if device not in taken and len(taken) < count and (file := _lock(device, folder)):
                taken[device] = file
        if len(taken) < count:
            if time.monotonic() - began > PATIENCE:
                for file in taken.values():
                    file.close()
                taken, began = {}, time.monotonic()
            time.sleep(POLL)
    return {device: taken[device] for device in pool if device in taken}


def holders(pool: Sequence[Device], folder: Path | None = None) -> dict[str, str]:
    """Return who holds which GPU, by its name; a free GPU is missing."""
    held = {}
    for device in pool:
        with _open(device.uuid, folder) as file:
            if not locked(file, shared=True):
                held[device.name] = file.read() or "another run"
    return held


def _waiting(count: int, pool: Sequence[Device], folder: Path | None) -> str:
    held = holders(pool, folder)
    if len(pool) == 1:
        return f"waiting for the GPU, which {next(iter(held.values()), 'another run')} has"
    who = "; ".join(f"{name}: {holder}" for name, holder in held.items()) or "others wait, too"
    return f"waiting for {count} of {len(pool)} GPUs ({who})"


def confine(module: str, params: Path, folder: Path | None = None) -> None:
    """Let this process see no more GPUs than it uses: those of its lease, or else free ones, which it leases.

    If too few are free, the process shares GPUs that others hold; it never waits. This must come before torch is
    imported, because a later change of the environment may have no effect.

    Args:
        module: The stage, for example `tasks.train`.
        params: `params.yaml`. The stage itself refuses a wrong one.
        folder: Folder of the lock files.
    """
    model = _model(params)
    if model.get("device") != "cuda" or LEASED in os.environ:
        return
    count = model.get("devices", 1) if module in SEVERAL else 1
    if not isinstance(count, int):
        return
    names = [device.name for device in _free_first(visible(), count, module, folder)]
    if not names:  # without nvidia-smi
        names = os.environ.get(VISIBLE, ",".join(map(str, range(count)))).split(",")[:count]
    os.environ[VISIBLE] = ",".join(names)


def _model(params: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(params.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    model = values.get("model") if isinstance(values, dict) else None
    return model if isinstance(model, dict) else {}


def _free_first(pool: Sequence[Device], count: int, module: str, folder: Path | None) -> list[Device]:
    """Return `count` GPUs, free ones first; the free ones are held until this process ends if the stage needs them."""
    free: list[Device] = []
    for device in pool:
        if len(free) < count and (file := _lock(device, folder)):
            free.append(device)
            if module in ON_GPU:
                _sign(file, f"{module} of process {os.getpid()}")
                _kept.append(file)
            else:
                file.close()
    return [*free, *(device for device in pool if device not in free)][:count]


_kept: list[IO[str]] = []
"""Locked files that stay open until the process ends."""


def _lock(device: Device, folder: Path | None) -> IO[str] | None:
    """Return the open, locked file of a GPU; None if another process holds it."""
    file = _open(device.uuid, folder)
    if locked(file):
        return file
    file.close()
    return None


def _open(name: str, folder: Path | None) -> IO[str]:
    """Open a lock file that every user of this machine may open; make it if it is missing."""
    path = (folder or Path(tempfile.gettempdir())) / f"{LOCKS}.{name}"
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        # Without O_CREAT: with it, Linux refuses the file of another user in a folder for temporary files.
        return os.fdopen(os.open(path, flags), "r+", encoding="utf-8")
    except FileNotFoundError:
        with suppress(FileExistsError):  # another process was faster
            made = os.open(path, flags | os.O_CREAT | os.O_EXCL)
            os.fchmod(made, 0o666)
            os.close(made)
    return os.fdopen(os.open(path, flags), "r+", encoding="utf-8")


def _sign(file: IO[str], holder: str) -> None:
    """Write the name of the holder into a locked file."""
    file.seek(0)
    file.truncate()
    file.write(holder)
    file.flush()
