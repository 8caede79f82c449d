"""A page in the browser to talk to the endpoint of `make serve`, until Ctrl+C: `make chat`, `make chat CHAT_PORT=8600`.

Streamlit serves the page, on this machine only; it reports nothing to anybody, and the page needs no network.
"""

import os
import sys

from stance.client.endpoint import find_endpoint
from stance.errors import InputError
from stance.machine.ports import HOST, in_use

PAGE = "stance/client/chat_page.py"
SETTINGS = {
    "server.address": HOST,
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
}


def command(port: int) -> list[str]:
    """Return the command that serves the page.

    Raises:
        InputError: The port is taken.
    """
    if in_use(port):
        raise InputError(f"port {port} is in use; end what uses it, or take another: make chat CHAT_PORT={port + 100}")
    settings = [part for name, value in SETTINGS.items() for part in (f"--{name}", value)]
    return [sys.executable, "-m", "streamlit", "run", PAGE, "--server.port", str(port), *settings]


def main() -> None:
    """Serve the page: `python -m stance chat PORT`."""
    arguments = command(int(sys.argv[1]))
    print(f"asks {find_endpoint().url}", flush=True)
    os.execv(sys.executable, arguments)
