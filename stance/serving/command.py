"""Serve a model behind an OpenAI-style endpoint: `make serve`, `make serve PORT=8100`; until Ctrl+C.

`python -m stance serve swap --run NAME` lets another run answer without a failed request, `rollback` the one before it
again; `status` and `stop` are what they say. `docs/serving.md` has the rest.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from stance.client.local import SERVE, state
from stance.errors import InputError
from stance.machine.locks import exclusive
from stance.machine.ports import HOST, parse_port, port_in
from stance.machine.processes import environment, until_ended
from stance.machine.supervisor import DETACHED
from stance.runs.catalogue import finished
from stance.serving import control
from stance.serving.endpoint import Endpoint, aloud
from stance.serving.engine import START, Wanted
from stance.serving.proxy import DRAIN, program, require_port

PORT = 8000
LOG = SERVE / "endpoint.log"


def serve(wanted: Wanted, host: str, port: int) -> None:
    """Serve until the process is ended.

    Raises:
        InputError: There is an endpoint already, or it cannot start or go on; says why.
    """
    if known := state():
        raise InputError(
            f"this folder serves {known['live']['name']} at {known['address']} already; change it by "
            "`python -m stance serve swap`, or end it by `python -m stance serve stop`"
        )
    os.environ.pop(DETACHED, None)  # what is started here ends with this process
    with exclusive(SERVE / "lock", "an endpoint is starting in this folder already; wait until it is up"):
        up = Endpoint(host, port)
        try:
            print(up.open(wanted, aloud), flush=True)
            control.stay(up)
        finally:
            up.close()


def serve_run(folder: Path, say: Callable[[str], None] = print) -> str:
    """Let the model of a run answer, and return the endpoint's address; it stays up when this process ends.

    With an endpoint up in this folder, that is a swap; else one is started, detached.

    Args:
        folder: The project, or a workspace of it, with every stage finished.
        say: Gets what is done and found, line by line.

    Raises:
        InputError: The model does not pass its checks, or cannot be served here; what was up is untouched.
    """
    wanted = Wanted(run=str(folder.resolve()))
    if state():
        return address_in(swap(wanted, say))
    return address_in(detach(wanted, port_in("SERVE_PORT", PORT), say))


def require_place() -> None:
    """Refuse a machine on which no endpoint is up and none can start, before anything else is done for one.

    Raises:
        InputError: The port is taken, or there is no proxy.
    """
    if not state():
        program()
        require_port(port_in("SERVE_PORT", PORT))


def swap(wanted: Wanted, say: Callable[[str], None] = print) -> str:
    """Let another model answer; the one before stays for `rollback`."""
    return control.give({"order": "swap", "wanted": wanted.model_dump()}, say)


def rollback(say: Callable[[str], None] = print) -> str:
    """Let the model before answer again."""
    return control.give({"order": "rollback"}, say)


def stop() -> str:
    """End the endpoint; running requests end first.

    Raises:
        InputError: There is none.
    """
    known = state()
    if not known:
        raise InputError("no endpoint is up in this folder")
    process = psutil.Process(known["pid"])
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=3 * DRAIN)
    return f"ended: {known['address']}"


def status() -> str:
    """Return what is up, in a few lines."""
    known = state()
    if not known:
        return "no endpoint is up in this folder; start one: make serve"
    lines = [f"up: {known['address']}  key in {known['key']}"]
    for role in ("live", "previous"):
        if one := known[role]:
            lines.append(f"  {role}: {one['name']}, ready in {one['seconds']} s, log in {one['log']}")
    return "\n".join(lines)


def detach(wanted: Wanted, port: int, say: Callable[[str], None]) -> str:
    """Start an endpoint that outlives this process, and wait until it is up.

    Raises:
        InputError: It did not start; says why.
    """
    require_port(port)
    SERVE.mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, "-m", "stance", "serve", "--folder", wanted.run, "--port", str(port)]
    with LOG.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**environment(), DETACHED: "1"},
        )  # fmt: skip
    try:
        return await_up(process, say)
    except BaseException:
        process.terminate()
        raise


def await_up(process: "subprocess.Popen[bytes]", say: Callable[[str], None]) -> str:
    """Wait until an endpoint says that it is up, and return that line.

    Raises:
        InputError: It ended, or took too long.
    """
    until, told = time.monotonic() + START, 0
    while time.monotonic() < until:
        ended = process.poll() is not None
        lines = LOG.read_text(encoding="utf-8").splitlines()
        for line in lines[told:]:
            say(line)
        told = len(lines)
        if up := [line for line in lines if line.startswith("up: ")]:
            return up[0]
        if ended:
            said = lines[-1].removeprefix("error: ") if lines else f"see {LOG}"
            raise InputError(f"the endpoint did not start: {said}")
        time.sleep(0.2)
    raise InputError(f"the endpoint did not start in {START} s; see {LOG}")


def address_in(line: str) -> str:
    """Return the address in the line that says what is up."""
    return line.removeprefix("up: ").split()[0]


def wanted_by(asked: argparse.Namespace) -> Wanted:
    """Return what the command line asks for.

    Raises:
        InputError: There is no such run.
    """
    if asked.hub and asked.with_base:
        raise InputError("--with-base wants a run of this project: the Hub's merged model has no adapter beside it")
    if asked.hub:
        return Wanted(hub=asked.hub, revision=asked.revision)
    folder = asked.folder or (str(finished(asked.run)) if asked.run else "")
    return Wanted(run=folder, with_base=asked.with_base)


def main() -> None:
    """Do what the command line asks for."""
    ask = argparse.ArgumentParser(
        description="Serve a model behind an OpenAI-style endpoint until Ctrl+C, or change the endpoint of this folder."
    )
    ask.add_argument(
        "action",
        nargs="?",
        default="up",
        choices=["up", "swap", "rollback", "status", "stop"],
        help="up: start the endpoint (default); swap: serve another model without a failed request; "
        "rollback: return to the previous model; status: show what is served; stop: end the endpoint",
    )
    ask.add_argument("--run", help="the name of a run in .runs (default: the run in this folder)")
    ask.add_argument("--folder", help="the folder of a finished run, if it is not in .runs")
    ask.add_argument("--with-base", action="store_true", help="serve the base model and the adapter in one engine")
    ask.add_argument("--hub", metavar="REPO_ID", help="serve a release on the Hub instead of a run")
    ask.add_argument("--revision", default="main", help="the tag or commit of the release on the Hub (default: main)")
    ask.add_argument("--host", default=HOST, help="the address to listen on (default: %(default)s)")
    ask.add_argument("--port", type=parse_port, default=port_in("PORT", PORT), help="default: %(default)s, or PORT")
    asked = ask.parse_args()
    match asked.action:
        case "up":
            wanted = wanted_by(asked)
            until_ended(lambda: serve(wanted, asked.host, asked.port))
        case "swap":
            print(swap(wanted_by(asked)))
        case "rollback":
            print(rollback())
        case "status":
            print(status())
        case "stop":
            print(stop())
