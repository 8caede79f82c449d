"""Serve the page that ranks sampled answers, until Ctrl+C: `make rank`, `make rank RANK_PORT=8600`.

The page reads `data/samples/samples.jsonl` and appends every vote to `data/sources/votes/votes.jsonl`.
"""

import os
import sys
from argparse import ArgumentParser

from stance.data.samples import SAMPLES
from stance.data.votes import FILE, VOTES
from stance.machine.ports import parse_port
from stance.pages.served import streamlit_command

PORT = 8502
PAGE = "stance/ranking/page.py"


def main() -> None:
    """Serve the page: `python -m stance rank [PORT]`."""
    parser = ArgumentParser(description="Serve a web page to rank sampled answers, until Ctrl+C.")
    parser.add_argument("port", nargs="?", type=parse_port, default=PORT, help="the port (default: %(default)s)")
    arguments = streamlit_command(PAGE, parser.parse_args().port, "rank")
    print(f"the page shows the answers in {SAMPLES} and writes votes to {VOTES / FILE}", flush=True)
    os.execv(sys.executable, arguments)
