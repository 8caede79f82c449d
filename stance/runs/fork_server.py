"""A process that has imported the packages of the stages, and forks for each stage: `fork_server.py OWNER SOCKET`.

`fork_client.py` starts it and says what it is for. Each connection gets a *minder*, a fork that starts the stage as a
child of its own, passes the client's signals on to it, and kills it when the client is gone. The kernel kills a minder
with the server and a stage with its minder (PR_SET_PDEATHSIG).

No package may start threads when it is imported, because threads do not live on in a fork. Two libraries do and start
theirs anew there (pthread_atfork): OpenBLAS in numpy, scipy and OpenCV, and jemalloc in pyarrow.
"""

import array
import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, cast

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)
STARTED_IN = dict(os.environ)
"""The environment before any import has changed it: `stance` itself sets variables."""

from stance.inference.environment import ENVIRONMENT, ONE_PROCESS, QUIET, without_others  # noqa: E402
from stance.runs.fork_client import END, LENGTH, common, of_this_user  # noqa: E402

PACKAGES = (
    "torch",
    "vllm.entrypoints.llm",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "datasets",
    "peft",
    "trl.trainer.dpo_trainer",
    "trl.trainer.sft_trainer",
    "scipy.stats",
    "sklearn.feature_extraction.text",
    "sklearn.linear_model",
    "matplotlib.figure",
    "jinja2",
)
"""What the stages import, by the time that it takes."""
GPU = Path("/dev/nvidiactl")
"""Exists where NVIDIA's driver is."""
WITH_BITSANDBYTES = ("peft", "trl")
"""These import bitsandbytes, which starts the driver of a GPU at once."""
WITHOUT_DRIVER = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Lets torch find out whether there is a GPU without the driver, while packages are imported."""
NOT_INITIALIZED = 3  # CUDA_ERROR_NOT_INITIALIZED of cuda.h
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Request = dict[str, Any]


def serve(owner: int, listener: socket.socket) -> tuple[Request, dict[str, str]] | None:
    """Import the packages, and fork until the owner ends.

    Args:
        owner: The process that the server belongs to.
        listener: Takes the connections; clients that come during the imports wait.

    Returns:
        In a fork, the request that it is for and the variables that the packages have set; None in the server.
    """
    environment = common(STARTED_IN)
    try:
        owned = os.pidfd_open(owner)
    except ProcessLookupError:
        return None
    import_packages()
    usable = not driver_started()
    added = {name: value for name, value in os.environ.items() if environment.get(name) != value}
    while owned not in select.select([owned, listener.fileno()], [], [])[0]:
        client, _ = listener.accept()
        if usable and not os.fork():
            listener.close()
            request = mind(client, environment)
            return request, added
        client.close()
    return None


def import_packages() -> None:
    """Import the packages as the stages do, and nothing of this project."""
    gc.set_threshold(100_000, 50, 100)
    for name in os.environ.keys() - without_others(os.environ).keys():
        del os.environ[name]
    os.environ.update(ENVIRONMENT | ONE_PROCESS | QUIET | WITHOUT_DRIVER)
    for name in PACKAGES:
        if not (GPU.exists() and name.partition(".")[0] in WITH_BITSANDBYTES):
            importlib.import_module(name)
    for name in WITHOUT_DRIVER:
        del os.environ[name]
    for name in [name for name in sys.modules if name.partition(".")[0] == "stance"]:
        del sys.modules[name]
    # vLLM looks at every name of every module that is imported, and here all are: one of torch's is deprecated.
    warnings.filterwarnings("ignore", message="`torch.distributed.reduce_op` is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message="This process .* is multi-threaded", category=DeprecationWarning)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets minders that have ended
    gc.collect()
    gc.freeze()  # a collection in a fork would copy the pages that it shares with the server


def driver_started() -> bool:
    """Has a package started the driver of the GPU? Then it would work in no fork of this process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return bool(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != NOT_INITIALIZED)


def mind(client: socket.socket, environment: Mapping[str, str]) -> Request:
    """Start the stage that a client asks for, and end with it; return only in the stage's own process."""
    die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = receive(client)
    if not of_this_user(client) or common(request["environment"]) != environment:
        os._exit(0)
    try:
        client.send(b"y")
    except OSError:  # the client has waited long enough, and starts its stage itself
        os._exit(0)
    stage = os.fork()
    os.setpgid(stage, stage)
    if not stage:
        client.close()
        return request
    handle = os.pidfd_open(stage)
    while handle not in select.select([client.fileno(), handle], [], [])[0]:
        received = client.recv(1)
        os.killpg(stage, received[0] if received else signal.SIGKILL)
        if not received:
            break
    _, status, usage = os.wait4(stage, 0)
    client.send(END.pack(os.waitstatus_to_exitcode(status), usage.ru_maxrss))
    os._exit(0)


def receive(client: socket.socket) -> Request:
    """Return what a client asks for; `files` are its standard input, output and error."""
    files = array.array("i")
    head, [(_, _, raw)], _, _ = client.recvmsg(LENGTH.size, socket.CMSG_SPACE(3 * files.itemsize))
    files.frombytes(raw)
    [size] = LENGTH.unpack(head)
    body = client.recv(size, socket.MSG_WAITALL)
    return {**json.loads(body), "files": list(files)}


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def become(request: Request, added: Mapping[str, str]) -> None:
    """Make this process what the client would have been: its files, folder, environment and arguments."""
    die_with_parent()
    for target, file in enumerate(request["files"]):
        os.dup2(file, target)
        os.close(file)
    for stream in (sys.stdout, sys.stderr):
        reopen(cast(TextIOWrapper, stream))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update({**added, **request["environment"]})
    sys.path[0] = request["folder"]
    sys.argv[:] = request["argv"][:1] + request["argv"][2:]
    sys.orig_argv[:] = [sys.executable, *request["argv"]]


def reopen(stream: TextIOWrapper) -> None:
    """Let a stream find out anew what its file is: a pipe, a terminal or a file. Log handlers keep the stream."""
    file = BufferedWriter(FileIO(stream.fileno(), "wb", closefd=False))
    TextIOWrapper.__init__(
        stream,
        file,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or file.isatty(),
        write_through=stream.write_through,
    )


def run_stage(module: str) -> int:
    """Run a stage as `python -m` does, and return its exit code."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """End a fork: its threads, what it has registered for its end, and its output; but free no module.

    To free all that the packages have made takes a second, and brings nothing.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Serve; in a fork, run the stage."""
    forked = serve(int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
    if not forked:
        leave(0)
    become(*forked)
    leave(run_stage(sys.orig_argv[2]))


if __name__ == "__main__":
    main()
