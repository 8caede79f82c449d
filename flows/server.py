"""`make ui`: the Prefect server and the process that serves the deployments, until Ctrl+C.

`make ui PORT=4300` takes another port. `some_server` provides a flow that was started in a terminal with a server.
"""

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from prefect.context import get_settings_context, refresh_global_settings_context
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME

from flows.pages import ADDRESS
from stance.errors import InputError, Unreachable, prepare, run
from stance.machine.locks import exclusive
from stance.machine.ports import HOST, answers, free_port, in_use, listens, port_in
from stance.machine.processes import environment, name_the_user, until_ended
from stance.machine.supervisor import guarded, release

PORT = 4200
START = 180  # seconds that a server may take on a busy machine
LOGS = Path(".runs")
LAST = "/api/deployments/name/serve/serve"
"""The path of the deployment that `flows.deployments` makes last."""
QUICK = {"PREFECT_RUNNER_POLL_FREQUENCY": "2", "PREFECT_WORKER_QUERY_SECONDS": "2"}
"""Seconds between two looks for runs to start or cancel; Prefect's default is 10."""
RUNS_AT_ONCE = "2"
"""The number of runs at a time, unless Prefect's own setting names another. Others wait in Prefect's queue."""


def ui(port: int) -> None:
    """Start the server and the deployments, unless they are up, and stay until one of them ends.

    Raises:
        InputError: Another program uses the port, or a process does not start.
    """
    address = f"http://{HOST}:{port}"
    LOGS.mkdir(exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(LOGS / f"ui-{port}.lock", "there is one"))
        except InputError:
            print(f"already up: {address}" if answers(f"{address}{LAST}") else f"already starting: {address}")
            return
        if in_use(port):
            raise InputError(
                f"port {port} is in use by another program; end it, or take another: make ui PORT={port + 100} (it may "
                "be `make ui` in another folder)"
            )
        start_all(address, port)


def start_all(address: str, port: int) -> None:
    """Start the server, then the process that serves the deployments, and stay until one of them ends."""
    settings = {**environment(), **prefect_settings(address)}
    server = start("server", ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)], settings)
    processes = [server]
    try:
        wait_for(f"{address}/api/health", "server", server)
        at = port + 1 if port < 2**16 - 1 and not in_use(port + 1) else free_port()
        ADDRESS.write_text(f"http://{HOST}:{at}", encoding="utf-8")
        processes.append(start("pages", ["-m", "flows.pages", str(at)], settings))
        processes.append(start("deployments", ["-m", "flows.deployments"], settings))
        wait_for(f"{address}{LAST}", "deployments", processes[-1])
        print(f"up: {address}  (Ctrl+C ends it; logs in {LOGS})", flush=True)
        print(f"  to start a run: {address}/deployments\n  reports and comparisons: http://{HOST}:{at}", flush=True)
        while all(process.poll() is None for process in processes):
            time.sleep(1)
        raise InputError(f"a process has ended by itself; see server.log, deployments.log and pages.log in {LOGS}")
    finally:
        ADDRESS.unlink(missing_ok=True)
        for process in reversed(processes):
            release(process)


@contextmanager
def some_server() -> Iterator[None]:
    """Provide a Prefect server: the configured one, or a temporary one that ends with this process, however that ends.

    A temporary server of Prefect's own would stay behind if this process is killed.

    Raises:
        Unreachable: The configured server does not answer.
        InputError: The server does not start.
    """
    prepare()
    name_the_user()
    if configured := PREFECT_API_URL.value():
        require_reachable(configured)
        yield
        return
    require_home()
    port = free_port()
    address = f"http://{HOST}:{port}"
    settings = {**environment(), **prefect_settings(address)}
    command = ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(port), "--no-services", "--no-ui"]
    server = start("temporary-server", command, settings)
    logging.getLogger("prefect.flow_runs").addFilter(names_no_page)
    try:
        wait_for(f"{address}/api/health", "temporary-server", server)
        configure(f"{address}/api")
        yield
    finally:
        for worker in (EventsWorker, APILogWorker):  # without this they look for a server for a minute
            worker.drain_all(timeout=5)
        release(server)
        configure("")


def names_no_page(record: logging.LogRecord) -> bool:
    """Is a log line something else than the address of a page? A temporary server has no pages."""
    return not record.getMessage().startswith("View at ")


def require_reachable(api: str) -> None:
    """Refuse a configured server that does not answer; any answer will do.

    Raises:
        Unreachable: Nothing answers at that address. The message says where the address comes from.
    """
    if listens(f"{api.rstrip('/')}/health"):
        return
    profile = get_settings_context().profile.name
    where, remedy = f"the Prefect profile {profile}", "run `prefect config unset PREFECT_API_URL`"
    if os.environ.get("PREFECT_API_URL"):
        where, remedy = "the environment", "unset PREFECT_API_URL"
    raise Unreachable(
        f"the Prefect server at {api} does not answer; PREFECT_API_URL of {where} names it: start that server, or "
        f"{remedy}, and a temporary server is used"
    )


def require_home() -> None:
    """Refuse a folder for Prefect's database that cannot be written.

    Raises:
        InputError: The folder cannot be made or written.
    """
    home = PREFECT_HOME.value()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=home):
            return
    except OSError as error:
        raise InputError(
            f"{home}, where Prefect keeps its database, cannot be written ({error.strerror}); set PREFECT_HOME to a "
            "folder that you may write to"
        ) from None


def configure(api: str) -> None:
    """Set the API address of Prefect's client, in all threads."""
    os.environ["PREFECT_API_URL"] = api
    refresh_global_settings_context()


def prefect_settings(address: str) -> dict[str, str]:
    """Return Prefect's settings for a server and its web pages at an address."""
    return {
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_UI_API_URL": f"{address}/api",
        **QUICK,
        "PREFECT_RUNNER_PROCESS_LIMIT": os.environ.get("PREFECT_RUNNER_PROCESS_LIMIT", RUNS_AT_ONCE),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def start(name: str, arguments: list[str], settings: dict[str, str]) -> "subprocess.Popen[str]":
    """Start a Python process that ends with this one, and log its output."""
    LOGS.mkdir(exist_ok=True)
    with (LOGS / f"{name}.log").open("w", encoding="utf-8") as log:
        return guarded([sys.executable, *arguments], env=settings, stdout=log, stderr=subprocess.STDOUT)


def wait_for(url: str, name: str, process: "subprocess.Popen[str]") -> None:
    """Wait until a URL answers.

    Raises:
        InputError: The process ended, or took too long.
    """
    until = time.monotonic() + START
    while not answers(url):
        if process.poll() is not None or time.monotonic() > until:
            raise InputError(f"the {name} process did not start; {LOGS}/{name}.log says why")
        time.sleep(0.5)


def main() -> None:
    """Run until Ctrl+C or SIGTERM."""
    argparse.ArgumentParser(
        prog="python -m flows.server",
        description="Start the Prefect server and the process that runs the flows, until Ctrl+C. The environment "
        f"variable PORT sets the port (default: {PORT}).",
    ).parse_args()
    port = port_in("PORT", PORT)
    until_ended(lambda: ui(port))


if __name__ == "__main__":
    run(main)
