"""The command that serves a page in the browser: Streamlit, on this machine only, without usage statistics.

The pages of `make chat` and `make rank` are served with it. They need no network.
"""

import sys
from importlib.util import find_spec

from stance.errors import InputError
from stance.machine.ports import HOST, in_use

SETTINGS = {
    "server.address": HOST,
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
}


def streamlit_command(page: str, port: int, target: str) -> list[str]:
    """Return the command that serves a page.

    Args:
        page: The file of the page.
        port: The port.
        target: The target of make that serves the page; its port is set by `TARGET_PORT`.

    Raises:
        InputError: The port is in use, or Streamlit is not installed.
    """
    if find_spec("streamlit") is None:
        raise InputError(f"the package streamlit is not installed; `make {target}` installs it")
    if in_use(port):
        other = f"make {target} {target.upper()}_PORT={port + 100}"
        raise InputError(f"port {port} is in use; end that program, or choose another: {other}")
    settings = [part for name, value in SETTINGS.items() for part in (f"--{name}", value)]
    return [sys.executable, "-m", "streamlit", "run", page, "--server.port", str(port), *settings]
