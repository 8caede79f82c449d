"""`make worker`: a worker of a Prefect work pool, which runs in this checkout the flows launched at another server.

`PREFECT_API_URL` names the server, `deploy/prefect.yaml` the deployments (docs/scale.md).
"""

import argparse
import os
import sys

from flows.deployments import mark_crashed
from flows.server import QUICK, RUNS_AT_ONCE
from stance.errors import InputError, run
from stance.machine.ports import answers
from stance.machine.processes import environment, until_ended
from stance.machine.supervisor import guarded, release

PATIENT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", "PREFECT_CLIENT_MAX_RETRIES": "8"}
"""Seconds between two signs of life of a run, and retries, in all about eight minutes, of a call to the server."""


def worker(pool: str) -> int:
    """Mark crashed runs, then take runs from a pool until the worker ends, and return its exit code.

    Raises:
        InputError: `PREFECT_API_URL` is not set, or the server does not answer.
    """
    server = os.environ.get("PREFECT_API_URL")
    if not server:
        raise InputError(
            "PREFECT_API_URL is not set; name the server, as in "
            "`PREFECT_API_URL=http://127.0.0.1:4200/api make worker` (docs/scale.md)"
        )
    if not answers(f"{server}/health"):
        raise InputError(f"no Prefect server answers at {server}; start it, or open the tunnel to it (docs/deploy.md)")
    for name in mark_crashed():
        print(f"{name} had crashed")
    limit = os.environ.get("PREFECT_RUNNER_PROCESS_LIMIT", RUNS_AT_ONCE)
    command = ["prefect", "worker", "start", "--type", "process", "--pool", pool, "--limit", limit]
    process = guarded([sys.executable, "-m", *command], env={**PATIENT, **environment(), **QUICK})
    try:
        return process.wait()
    finally:
        release(process)


def main() -> None:
    """Run until Ctrl+C or SIGTERM."""
    argparse.ArgumentParser(
        prog="python -m flows.worker",
        description="Run the flows that are launched at the Prefect server in PREFECT_API_URL, until Ctrl+C. The "
        "environment variable POOL names the work pool (default: stance).",
    ).parse_args()
    until_ended(lambda: sys.exit(worker(os.environ.get("POOL", "stance"))))


if __name__ == "__main__":
    run(main)
