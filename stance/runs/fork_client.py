"""Start a stage in a fork of a process that has imported torch, TRL and vLLM: `fork_client.py -m tasks.train ...`.

A stage imports for up to ten seconds before it works, and `dvc repro` and the flows start each stage as a process of
its own. So the first stage with large imports also starts a server (`fork_server.py`). The server imports the packages
once, while that stage works, and forks for each later stage. It keeps no code of this project, so a stage in a
workspace runs the code of the workspace.

The server belongs to an owner: the `dvc` process that started the stage, or the process that `OWNER` names. It ends
with the owner, even after `kill -9`, and its forks end with it. A stage starts in the usual way where the server is
missing, is not ready, or was started in another environment. A GPU's driver that has started does not work in a fork.
So on a machine with a GPU the server imports no package that starts it, and forks no stage if one has done so.

This client stands for the fork: it hands over its files, folder and environment, passes signals on, and ends as the
fork ends. It imports the standard library only, so that it starts in some 30 ms.
"""

import array
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

OWNER = "STANCE_OWNER"
"""The process that the server belongs to, where it is not the `dvc` process that started the stage."""
STAGE = "DVC_STAGE"
"""The variable by which DVC names the stage."""
DETACHED = "STANCE_DETACHED"
"""Keeps the guard of a stage from ending the server (`stance.machine.supervisor`)."""
RUN = "STANCE_RUN"
"""The workspace of the stage, if it has one (`stance.machine.supervisor`)."""
OF_A_STAGE = frozenset(
    {STAGE, "DVC_ROOT", RUN, DETACHED, "STANCE_LEASED", "CUDA_VISIBLE_DEVICES", "PWD", "OLDPWD", "SHLVL", "_"}
)
"""Variables that may differ from stage to stage. No package reads them when it is imported."""
STARTING = frozenset(
    {"tasks.base", "tasks.classifier", "tasks.pairs", "tasks.sft", "tasks.answers", "tasks.train", "tasks.merge"}
)
"""The stages that start a server: they import for seconds, and more such stages follow. They also wait for one that is
still importing, which takes no longer than their own imports beside it."""
PATIENCE, HASTE = 60.0, 0.3
"""Seconds that these stages, and all others, wait for the server."""
SERVER = Path(__file__).with_name("fork_server.py").resolve()
LOG = Path(".dvc/tmp/fork_server.log")
LENGTH = struct.Struct("!I")
"""Bytes of a request."""
END = struct.Struct("!iI")
"""How a stage ended: its exit code, or its signal as a negative number; and its peak memory in KiB."""
CREDENTIALS = struct.Struct("3i")
"""`struct ucred` of unix(7): process, user, group."""


def owner() -> int | None:
    """Return the process that the server of this stage belongs to; None if the stage was started by hand."""
    if named := os.environ.get(OWNER):
        return int(named)
    pid = os.getpid()
    while pid > 1 and f"\0{STAGE}=".encode() in b"\0" + Path(f"/proc/{pid}/environ").read_bytes():
        pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    return pid if pid > 1 and pid != os.getpid() else None


def address(pid: int) -> bytes:
    """Return the abstract name of the server's socket, by owner and interpreter. It leaves no file behind."""
    return b"\0stance-%d-%s" % (pid, sha256(sys.executable.encode()).hexdigest()[:16].encode())


def of_this_user(peer: socket.socket) -> bool:
    """Does the other end belong to the user of this process? Every user can bind and reach an abstract name."""
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return bool(CREDENTIALS.unpack(raw)[1] == os.getuid())


def common(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that all stages of a run have in common."""
    return {name: value for name, value in variables.items() if name not in OF_A_STAGE}


def fork(pid: int) -> socket.socket | None:
    """Return the connection to a new fork of the owner's server; None where there is none."""
    request = {"argv": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}
    body = json.dumps(request).encode()
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(PATIENCE if sys.argv[2] in STARTING else HASTE)
        connection.connect(address(pid))
        if not of_this_user(connection):
            return None
        files = array.array("i", [0, 1, 2])
        connection.sendmsg([LENGTH.pack(len(body))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        connection.sendall(body)
        answered = connection.recv(1)
        connection.settimeout(None)
        return connection if answered else None
    except OSError:
        return None


def follow(connection: socket.socket) -> NoReturn:
    """Pass signals on to the fork, and end as it ends."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCONT):
        signal.signal(number, lambda received, _: connection.send(bytes([received])))
    signal.signal(signal.SIGTSTP, lambda *_: stop(connection))
    ended = connection.recv(END.size, socket.MSG_WAITALL)
    if len(ended) < END.size:
        sys.exit("error: the process that starts the stages has ended before the stage; run the same command again")
    code, kibibytes = END.unpack(ended)
    if RUN in os.environ:
        print(f"peak memory {kibibytes // 1024} MiB", flush=True)
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def stop(connection: socket.socket) -> None:
    """Stop the fork and this process, as Ctrl+Z does, until SIGCONT comes."""
    connection.send(bytes([signal.SIGSTOP]))
    os.kill(os.getpid(), signal.SIGSTOP)


def start_server(pid: int) -> None:
    """Start a server for the owner, unless one has started. It gets a socket that takes connections already."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(address(pid))
    except OSError:
        return
    listener.listen()
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("ab") as log:
        subprocess.Popen(
            [sys.executable, str(SERVER), str(pid), str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env={**common(os.environ), DETACHED: "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def main() -> None:
    """Run a stage in a fork; without a server, run it in this process, and start a server for later stages."""
    try:
        pid = owner()
    except OSError:  # there is no /proc, or the owner is another user's process
        pid = None
    if pid and (connection := fork(pid)):
        follow(connection)
    if pid and sys.argv[2] in STARTING:
        start_server(pid)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


if __name__ == "__main__":
    main()
