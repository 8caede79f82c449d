"""The Prefect server and the process that serves the deployments, until Ctrl+C: `make ui`, `make ui PORT=4300`."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefect.context import refresh_global_settings_context
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL

from stance.errors import InputError, run
from stance.machine.locks import exclusive
from stance.machine.ports import HOST, answers, free_port, in_use, port_in
from stance.machine.processes import environment, until_ended
from stance.machine.supervisor import guarded, release

PORT = 4200
START = 180  # seconds that a server may take on a busy machine
LOGS = Path(".runs")
LAST = "/api/deployments/name/serve/serve"
"""The deployment that `flows.deployments` makes last."""
QUICK = {"PREFECT_RUNNER_POLL_FREQUENCY": "2", "PREFECT_WORKER_QUERY_SECONDS": "2"}
"""Seconds until a run starts or is cancelled; 10 by default."""
RUNS_AT_ONCE = "2"
"""Others wait in Prefect's queue, where they take no memory; Prefect's own setting says otherwise."""


def ui(port: int) -> None:
    """Start what is not up yet and stay until something ends.

    Raises:
        InputError: The port belongs to another program, or a process does not start.
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
    """Start the server and the process that serves the deployments, and stay until one ends."""
    settings = {**environment(), **prefect_settings(address)}
    server = start("server", ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)], settings)
    processes = [server]
    try:
        wait_for(f"{address}/api/health", "server", server)
        processes.append(start("deployments", ["-m", "flows.deployments"], settings))
        wait_for(f"{address}{LAST}", "deployments", processes[-1])
        print(f"up: {address}  (Ctrl+C ends it; logs in {LOGS})", flush=True)
        while all(process.poll() is None for process in processes):
            time.sleep(1)
        raise InputError(f"a process has ended by itself; see {LOGS}/server.log and {LOGS}/deployments.log")
    finally:
        for process in reversed(processes):
            release(process)


@contextmanager
def some_server() -> Iterator[None]:
    """Have a Prefect server: the one that is configured, or else one that ends with this process, however that ends.

    The one that Prefect itself would start stays behind where the process is killed.

    Raises:
        InputError: It does not start.
    """
    if PREFECT_API_URL.value():
        yield
        return
    port = free_port()
    address = f"http://{HOST}:{port}"
    settings = {**environment(), **prefect_settings(address)}
    command = ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(port), "--no-services", "--no-ui"]
    server = start("temporary-server", command, settings)
    try:
        wait_for(f"{address}/api/health", "temporary-server", server)
        configure(f"{address}/api")
        yield
    finally:
        for worker in (
            EventsWorker,
            APILogWorker,
        ):  # which else ask for a server for a minute
            worker.drain_all(timeout=5)
        release(server)
        configure("")


def configure(api: str) -> None:
    """Let Prefect's client, in all threads, ask a server."""
    os.environ["PREFECT_API_URL"] = api
    refresh_global_settings_context()


def prefect_settings(address: str) -> dict[str, str]:
    """Return Prefect's settings for a server at an address, its pages included."""
    return {
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_UI_API_URL": f"{address}/api",
        **QUICK,
        "PREFECT_RUNNER_PROCESS_LIMIT": os.environ.get("PREFECT_RUNNER_PROCESS_LIMIT", RUNS_AT_ONCE),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def start(name: str, arguments: list[str], settings: dict[str, str]) -> "subprocess.Popen[str]":
    """Start a Python process that ends with this one, and log what it prints."""
    LOGS.mkdir(exist_ok=True)
    with (LOGS / f"{name}.log").open("w", encoding="utf-8") as log:
        return guarded([sys.executable, *arguments], env=settings, stdout=log, stderr=subprocess.STDOUT)


def wait_for(url: str, name: str, process: "subprocess.Popen[str]") -> None:
    """Wait until a URL answers."""
    until = time.monotonic() + START
    while not answers(url):
        if process.poll() is not None or time.monotonic() > until:
            raise InputError(f"the {name} process did not start; {LOGS}/{name}.log says why")
        time.sleep(0.5)


def main() -> None:
    """Run until Ctrl+C or SIGTERM."""
    port = port_in("PORT", PORT)
    until_ended(lambda: ui(port))


if __name__ == "__main__":
    run(main)
