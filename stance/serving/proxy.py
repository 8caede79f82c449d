"""HAProxy on the public port, and the commands that tell it where requests go. Its configuration: `deploy/haproxy.cfg`.

HAProxy has two servers, each a `Slot`. The engine that answers is in one of them. The other slot holds the previous
engine, for a rollback.
"""

import csv
import io
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Literal, get_args

from stance.client.local import SERVE
from stance.errors import InputError
from stance.machine.ports import HOST, in_use
from stance.machine.supervisor import guarded, release

Slot = Literal["blue", "green"]
SLOTS: tuple[Slot, ...] = get_args(Slot)
CONFIGURATION = Path("deploy/haproxy.cfg")
SOCKET = SERVE / "proxy.socket"
LOG = SERVE / "proxy.log"
NOWHERE = 9
"""A port on which no program listens: that of the discard service."""
DRAIN = 30
"""Seconds that running requests have to end."""
START = 15


class Proxy:
    """A running HAProxy."""

    def __init__(self, host: str, port: int, certificate: Path | None = None) -> None:
        """Start HAProxy, with no engine behind it. With a certificate it speaks TLS only.

        Raises:
            InputError: HAProxy is not installed, or did not start.
        """
        self.process = start(host, port, certificate)
        try:
            self.pid = self._await()
        except InputError:
            self.end()
            raise

    def say(self, command: str) -> str:
        """Send a command of HAProxy's runtime API, and return the answer.

        Raises:
            RuntimeError: HAProxy refuses the command.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(SOCKET))
            connection.sendall(f"{command}\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode().strip()
        if command.startswith("set ") and answer and not answer.startswith(("IP changed", "no need", "port changed")):
            raise RuntimeError(f"HAProxy answers `{command}` with: {answer}")
        return answer

    def move(self, slot: Slot, port: int) -> None:
        """Let a slot stand for the engine on a port."""
        self.say(f"set server engines/{slot} addr {HOST} port {port}")

    def switch(self, to: Slot) -> None:
        """Send new requests to a slot; requests that run in the other slot end there."""
        self.say(f"set server engines/{to} state ready")
        for other in SLOTS:
            if other != to:
                self.say(f"set server engines/{other} state drain")

    def running(self, slot: Slot) -> int:
        """Return the number of running requests in a slot."""
        table = csv.DictReader(io.StringIO(self.say("show stat").removeprefix("# ")))
        return next(int(row["scur"]) for row in table if (row["pxname"], row["svname"]) == ("engines", slot))

    def drained(self, slot: Slot) -> bool:
        """Wait until the requests in a slot have ended; return False if some still run after `DRAIN` seconds."""
        until = time.monotonic() + DRAIN
        while self.running(slot):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def leave(self) -> None:
        """Accept no more requests, let the running ones end within `DRAIN` seconds, and end HAProxy."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGUSR1)
            try:
                self.process.wait(timeout=DRAIN + 5)
            except subprocess.TimeoutExpired:
                print(f"requests ran on after {DRAIN} s and were cut off")
        self.end()

    def end(self) -> None:
        """End HAProxy at once."""
        release(self.process)
        SOCKET.unlink(missing_ok=True)

    def _await(self) -> int:
        until = time.monotonic() + START
        while time.monotonic() < until and self.process.poll() is None:
            try:
                lines = self.say("show info").splitlines()
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.05)
            else:
                return next(int(line.removeprefix("Pid: ")) for line in lines if line.startswith("Pid: "))
        raise InputError(f"HAProxy did not start; {LOG} says why, and {CONFIGURATION} is what it was given")


def program() -> str:
    """Return the path of HAProxy.

    Raises:
        InputError: HAProxy is not installed.
    """
    path = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
    if not path:
        raise InputError("haproxy is not installed; `apt-get install haproxy`, or your system's package of that name")
    return path


def require_port(port: int) -> None:
    """Refuse a port on which a program listens."""
    if in_use(port):
        raise InputError(
            f"port {port} is in use by another program; end it, or take another: make serve PORT={port + 100}"
        )


def require_certificate(path: Path) -> None:
    """Refuse a file that HAProxy cannot take as its certificate.

    Raises:
        InputError: Says what the file lacks.
    """
    expected = "expected a PEM file with the certificate, those that signed it, and its private key without a password"
    if not path.is_file():
        raise InputError(f"there is no file {path}; {expected}")
    if any(character.isspace() for character in str(path.resolve())):
        raise InputError(f"the path {path.resolve()} has a space, which HAProxy takes for its end; move the file")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, password="")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be used as a certificate ({error}); {expected}") from None


def start(host: str, port: int, certificate: Path | None = None) -> "subprocess.Popen[str]":
    """Start HAProxy under a guard."""
    SOCKET.unlink(missing_ok=True)
    settings = {
        "SERVE_HOST": host,
        "SERVE_PORT": str(port),
        "SERVE_SOCKET": str(SOCKET),
        "SERVE_DRAIN": f"{DRAIN}s",
    }
    if certificate:
        settings["SERVE_TLS"] = f"ssl crt {certificate.resolve()} alpn http/1.1"
    with LOG.open("a", encoding="utf-8") as log:
        command = [program(), "-db", "-f", str(CONFIGURATION)]
        return guarded(command, env={**os.environ, **settings}, stdout=log, stderr=subprocess.STDOUT)
