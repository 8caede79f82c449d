"""A training on several devices: one process per device, with the same global batch as on one device.

Every process reads the pairs in the same order and computes its share of each batch. The gradients are averaged over
the processes (PyTorch's DistributedDataParallel), so all adapters stay the same. Rank 0 writes the files.
"""

import ctypes
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from stance.config.models import Model
from stance.models.loading import require_devices

STARTED = "STANCE_TRAINING_PROCESS"
"""In the environment of a process that `spread` has started."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h
SIZES = "sizes"
"""Key of a batch with the number of pairs of each process."""
Item = TypeVar("Item")


def rank() -> int:
    """Return the number of this process in the training; 0 writes the files."""
    return int(os.environ["RANK"]) if STARTED in os.environ else 0


def processes() -> int:
    """Return the number of processes of the training."""
    return int(os.environ["WORLD_SIZE"]) if STARTED in os.environ else 1


def spread(stage: str, model: Model) -> bool:
    """Run a stage once per device, and return True when all processes have ended; False if this process is to train.

    Args:
        stage: Its module, for example `tasks.train`. The arguments are those of this process.
        model: Its devices.

    Raises:
        InputError: There are fewer devices.
        SystemExit: A process failed, or this one was ended by a signal. The code is that of the first one to fail.
    """
    if STARTED in os.environ or model.devices == 1:
        return False
    require_devices(model)
    os.environ[STARTED] = "1"
    if model.device == "cpu":
        os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // model.devices))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=model.devices,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the process has told what is wrong
    try:
        elastic_launch(config, sys.executable)("-m", stage, *sys.argv[1:])
    except ChildFailedError as error:
        sys.exit(max(1, error.get_first_failure()[1].exitcode))
    except SignalException as signalled:  # it has ended the processes
        sys.exit(128 + signalled.sigval)
    return True


@contextmanager
def writing(*outputs: Path) -> Iterator[tuple[Path, ...]]:
    """Yield the paths that this process writes to: `outputs` for rank 0, and paths that are removed for all others.

    The other processes log warnings only, and end with the process that has started them, even after `kill -9`.
    """
    if STARTED in os.environ:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if rank() == 0:
        yield outputs
        _part()
        return
    for package in ("stance", "tasks", "__main__"):
        logging.getLogger(package).setLevel(logging.WARNING)
    with TemporaryDirectory() as scratch:
        yield tuple(Path(scratch) / str(number) for number in range(len(outputs)))
    _part()


def _part() -> None:
    """Leave the group of processes; torch warns about a process that ends in it."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def shares(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """Return consecutive parts of a sequence for `count` processes. Their lengths differ by 1 at most."""
    each, more = divmod(len(items), count)
    ends = [number * each + min(number, more) for number in range(count + 1)]
    return [items[begin:end] for begin, end in zip(ends, ends[1:], strict=False)]


class Share:
    """A data collator for the whole batch of all processes, which returns the share of this process.

    A process without a pair gets the first pair, and the numbers in the batch say that this pair does not count.
    """

    def __init__(self, collate: Callable[[Sequence[Any]], dict[str, Any]]) -> None:
        """Keep the collator for the rows of a share."""
        self.collate = collate

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return the batch of this process, with the number of pairs of every process under `SIZES`."""
        parts = shares(rows, processes())
        return {**self.collate(parts[rank()] or rows[:1]), SIZES: [len(part) for part in parts]}


def weight(sizes: Sequence[int]) -> float:
    """Return the weight of this process's mean loss, so that the mean over all processes is that over all pairs."""
    return sizes[rank()] * len(sizes) / sum(sizes)


@contextmanager
def uneven(accelerator: Accelerator, sizes: Sequence[int]) -> Iterator[None]:
    """Let `accelerator.gather` gather one value per pair where the processes have different numbers of pairs.

    NCCL and Gloo gather tensors of the same shape only. The values are padded, and the padding is taken out again.
    """
    if len(set(sizes)) == 1:
        yield
        return
    gather, longest = cast(Callable[[torch.Tensor], torch.Tensor], accelerator.gather), max(sizes)

    def gather_padded(values: torch.Tensor) -> torch.Tensor:
        if values.ndim == 0:
            return gather(values)
        padded: torch.Tensor = gather(torch.nn.functional.pad(values, (0, longest - len(values))))
        return torch.cat([part[:size] for part, size in zip(padded.split(longest), sizes, strict=True)])

    accelerator.gather = gather_padded
    try:
        yield
    finally:
        del accelerator.gather


def all_rows(mine: Sequence[Item]) -> list[Item]:
    """Return the items of all processes, of which each has every `processes()`-th: rank 0 the first, and so on."""
    if processes() == 1:
        return list(mine)
    parts: list[Any] = [None] * processes()
    torch.distributed.all_gather_object(parts, list(mine))
    return [parts[number % len(parts)][number // len(parts)] for number in range(sum(map(len, parts)))]
