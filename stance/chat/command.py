"""Serve a web page to chat with the endpoint, until Ctrl+C: `make chat`, `make chat CHAT_PORT=8600`.

`stance/pages/served.py` says how Streamlit serves it.
"""

import os
import sys
from argparse import ArgumentParser

from stance.client.endpoint import find_endpoint
from stance.machine.ports import parse_port
from stance.pages.served import streamlit_command

PORT = 8501
PAGE = "stance/chat/page.py"


def command(port: int) -> list[str]:
    """Return the command that serves the page; raises as `streamlit_command` does."""
    return streamlit_command(PAGE, port, "chat")


def main() -> None:
    """Serve the page: `python -m stance chat [PORT]`."""
    parser = ArgumentParser(description="Serve a web page to chat with the endpoint, until Ctrl+C.")
    parser.add_argument("port", nargs="?", type=parse_port, default=PORT, help="the port (default: %(default)s)")
    arguments = command(parser.parse_args().port)
    print(f"the page asks {find_endpoint().url}", flush=True)
    os.execv(sys.executable, arguments)
