"""A Prefect server without pages, for flows that are started from a command line."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.server import prefect_settings, wait_for
from stance.machine.ports import HOST, free_port
from stance.machine.supervisor import guarded, release


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """Serve until the block ends; yields the address for PREFECT_API_URL."""
    port = free_port()
    address = f"http://{HOST}:{port}"
    settings = {**os.environ, **prefect_settings(address), "PREFECT_HOME": str(home)}
    command = ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(port), "--no-services", "--no-ui"]
    with (home / "server.log").open("w", encoding="utf-8") as log:
        server = guarded([sys.executable, *command], env=settings, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"{address}/api/health", "server", server)
        yield f"{address}/api"
    finally:
        release(server)
