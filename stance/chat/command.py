"""Serve a web page to chat with the endpoint, until Ctrl+C: `make chat`, `make chat CHAT_PORT=8600`.

Streamlit serves the page, on this machine only. Streamlit's usage statistics are switched off, and the page needs no
network.
"""

import os
import sys
from argparse import ArgumentParser
from importlib.util import find_spec

from stance.client.endpoint import find_endpoint
from stance.errors import InputError
from stance.machine.ports import HOST, in_use, parse_port

PORT = 8501
PAGE = "stance/chat/page.py"
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
        InputError: The port is in use, or Streamlit is not installed.
    """
    if find_spec("streamlit") is None:
        raise InputError("the package streamlit is not installed; `make chat` installs it")
    if in_use(port):
        raise InputError(
            f"port {port} is in use; end that program, or choose another: make chat CHAT_PORT={port + 100}"
        )
    settings = [part for name, value in SETTINGS.items() for part in (f"--{name}", value)]
    return [sys.executable, "-m", "streamlit", "run", PAGE, "--server.port", str(port), *settings]


def main() -> None:
    """Serve the page: `python -m stance chat [PORT]`."""
    parser = ArgumentParser(description="Serve a web page to chat with the endpoint, until Ctrl+C.")
    parser.add_argument("port", nargs="?", type=parse_port, default=PORT, help="the port (default: %(default)s)")
    arguments = command(parser.parse_args().port)
    print(f"the page asks {find_endpoint().url}", flush=True)
    os.execv(sys.executable, arguments)
