"""The command `python -m stance serve`, and the functions with which flows serve a model.

`make serve` starts an endpoint that serves until Ctrl+C. `swap --run NAME` lets another run answer without a failed
request, `rollback` returns to the previous model, `status` shows what is served, `stop` ends the endpoint. See
`docs/serving.md`.
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

from stance.client.local import SERVE, killed_state, state
from stance.errors import InputError
from stance.machine.digests import Digests, hand_over, handed_over
from stance.machine.locks import exclusive
from stance.machine.ports import HOST, parse_port, port_in
from stance.machine.processes import environment, until_ended
from stance.machine.supervisor import DETACHED
from stance.runs.catalogue import finished
from stance.serving import control, remains
from stance.serving.endpoint import Endpoint, aloud
from stance.serving.engine import START, ServeRequest
from stance.serving.proxy import DRAIN, program, require_port

PORT = 8000
LOG = SERVE / "endpoint.log"
DIGESTS = SERVE / "digests.json"
"""The digests that an endpoint which starts gets from the process that starts it."""


def serve(
    request: ServeRequest, host: str, port: int, certificate: Path | None = None, *, public_pages: bool | None = None
) -> None:
    """Serve until the process is ended. The arguments are those of `Endpoint`.

    Raises:
        InputError: There is an endpoint already, or the endpoint cannot start or go on; says why.
    """
    if current := state():
        raise InputError(
            f"this folder serves {current['live']['name']} at {current['address']} already; change it by "
            "`python -m stance serve swap`, or end it by `python -m stance serve stop`"
        )
    os.environ.pop(DETACHED, None)  # the processes started here end with this one
    with exclusive(SERVE / "lock", "an endpoint is starting in this folder already; wait until it is up"):
        if removed := remains.clean():
            print(f"removed what a killed endpoint had left: {', '.join(map(str, removed))}", flush=True)
        up = Endpoint(host, port, certificate, public_pages=public_pages)
        if exposure := up.exposure():
            print(exposure, flush=True)
        try:
            print(up.open(request, aloud), flush=True)
            control.stay(up)
        finally:
            up.close()


def serve_run(folder: Path, say: Callable[[str], None] = print, digests: Digests | None = None) -> str:
    """Let the model of a run answer, and return the address of the endpoint, which outlives this process.

    If an endpoint is up in this folder, this is a swap. Otherwise an endpoint is started, detached.

    Args:
        folder: The project, or a workspace of it, with every stage finished.
        say: Gets the progress, line by line.
        digests: Digests of the run's files, if the caller has them; a file that they fit is not read again.

    Raises:
        InputError: The model does not pass its checks, or cannot be served here. A running endpoint stays as it was.
    """
    request = ServeRequest(run=str(folder.resolve()), digests=dict(digests or {}))
    if state():
        return address_in(swap(request, say))
    return address_in(detach(request, port_in("SERVE_PORT", PORT), say))


def require_place() -> None:
    """Refuse a machine on which no endpoint is up and none can start, before any other work is done for one.

    Raises:
        InputError: The port is in use, or HAProxy is not installed.
    """
    if not state():
        program()
        require_port(port_in("SERVE_PORT", PORT))


def swap(request: ServeRequest, say: Callable[[str], None] = print) -> str:
    """Let another model answer; the previous one stays for `rollback`."""
    return control.give({"order": "swap", "request": request.model_dump(mode="json")}, say)


def rollback(say: Callable[[str], None] = print) -> str:
    """Let the previous model answer again."""
    return control.give({"order": "rollback"}, say)


def stop() -> str:
    """End the endpoint after its running requests, and return a line that says so.

    Raises:
        InputError: There is no endpoint.
    """
    current = state()
    if not current:
        raise InputError("no endpoint is up in this folder; start one: make serve")
    process = psutil.Process(current["pid"])
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=3 * DRAIN)
    return f"ended: {current['address']}"


def status() -> str:
    """Return a few lines that say which models are in use."""
    current = state()
    if not current:
        return "no endpoint is up in this folder; start one: make serve"
    lines = [f"up: {current['address']}  key in {current['key']}"]
    for role in ("live", "previous"):
        if engine := current[role]:
            lines.append(f"  {role}: {engine['name']}, ready in {engine['seconds']} s, log in {engine['log']}")
    return "\n".join(lines)


def detach(request: ServeRequest, port: int, say: Callable[[str], None]) -> str:
    """Start an endpoint that outlives this process, wait until it is up, and return the line that says so.

    Raises:
        InputError: The endpoint did not start; says why.
    """
    require_port(port)
    SERVE.mkdir(mode=0o700, exist_ok=True)
    hand_over(DIGESTS, request.digests)
    command = [sys.executable, "-m", "stance", "serve", "--folder", request.run, "--port", str(port)]
    command += ["--digests", str(DIGESTS)]
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
    finally:
        DIGESTS.unlink(missing_ok=True)


def await_up(process: "subprocess.Popen[bytes]", say: Callable[[str], None]) -> str:
    """Wait until an endpoint says that it is up, and return that line.

    Raises:
        InputError: The endpoint ended, or took too long.
    """
    until, shown = time.monotonic() + START, 0
    while time.monotonic() < until:
        ended = process.poll() is not None
        lines = LOG.read_text(encoding="utf-8").splitlines()
        for line in lines[shown:]:
            say(line)
        shown = len(lines)
        if up := [line for line in lines if line.startswith("up: ")]:
            return up[0]
        if ended:
            reason = lines[-1].removeprefix("error: ") if lines else f"see {LOG}"
            raise InputError(f"the endpoint did not start: {reason}")
        time.sleep(0.2)
    raise InputError(f"the endpoint did not start in {START} s; see {LOG}")


def address_in(line: str) -> str:
    """Return the address in the line that says what is up."""
    return line.removeprefix("up: ").split()[0]


def request_in(options: argparse.Namespace) -> ServeRequest:
    """Return the model that the command line names.

    Raises:
        InputError: There is no such run.
    """
    if options.hub and options.with_base:
        raise InputError(
            "--with-base needs a run of this project: on the Hub the merged model has no adapter beside it"
        )
    if options.hub:
        return ServeRequest(hub=options.hub, revision=options.revision)
    folder = options.folder or (str(finished(options.run)) if options.run else "")
    return ServeRequest(run=folder, with_base=options.with_base, digests=handed_over(options.digests))


def resumed(request: ServeRequest, say: Callable[[str], None] = aloud) -> ServeRequest:
    """Return the model that a killed endpoint of this folder served, if the command line names no other."""
    last = killed_state()
    if request != ServeRequest() or not last:
        return request
    live = last["live"]
    before = ServeRequest.model_validate(live["request"])
    if before.run and not Path(before.run).is_dir():
        return request
    say(f"serves {live['name']} again, which this folder served when the machine or the endpoint was stopped by force")
    return before


def main() -> None:
    """Run the action that the command line names."""
    parser = argparse.ArgumentParser(
        description="Serve a model behind an OpenAI-style endpoint until Ctrl+C, or change the endpoint of this folder."
    )
    parser.add_argument(
        "action",
        nargs="?",
        default="up",
        choices=["up", "swap", "rollback", "status", "stop"],
        help="up: start the endpoint (default); swap: serve another model without a failed request; "
        "rollback: return to the previous model; status: show what is served; stop: end the endpoint",
    )
    parser.add_argument("--run", help="the name of a run in .runs (default: the run in this folder)")
    parser.add_argument("--folder", help="the folder of a finished run, if it is not in .runs")
    parser.add_argument("--with-base", action="store_true", help="serve the base model and the adapter in one engine")
    parser.add_argument("--hub", metavar="REPO_ID", help="serve a release on the Hub instead of a run")
    parser.add_argument(
        "--revision", default="main", help="the tag or commit of the release on the Hub (default: main)"
    )
    parser.add_argument("--digests", type=Path, help="a file of digests that the calling process has taken")
    parser.add_argument("--host", default=HOST, help="the address to listen on (default: %(default)s)")
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE", help="a PEM file with a certificate and its private key, for TLS"
    )
    parser.add_argument(
        "--public-pages",
        action=argparse.BooleanOptionalAction,
        help="let everybody read /metrics and /provenance (default: on the loopback address only)",
    )
    parser.add_argument("--port", type=parse_port, default=port_in("PORT", PORT), help="default: %(default)s, or PORT")
    options = parser.parse_args()
    match options.action:
        case "up":
            request = resumed(request_in(options))
            listening = (options.host, options.port, options.certificate)
            until_ended(lambda: serve(request, *listening, public_pages=options.public_pages))
        case "swap":
            print(swap(request_in(options)))
        case "rollback":
            print(rollback())
        case "status":
            print(status())
        case "stop":
            print(stop())
