"""Errors that a user can correct, and how a program reports them.

Log lines go to standard output. A wrong input becomes one sentence on standard error and an exit code.
"""

import gc
import logging
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper


class InputError(Exception):
    """The input is wrong. The message says what was found, what was expected, and what to do next."""


class Unreachable(InputError):
    """A server did not answer or was busy. The same may work later."""


def replace_what_cannot_be_shown() -> None:
    """Let standard output show `?` for characters that the terminal's encoding lacks, instead of ending the program."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def run(stage: Callable[[], None]) -> None:
    """Run the `main` of a stage or a command. An `InputError` ends it with its sentence and exit code 1.

    `Unreachable` ends it with exit code 75 (EX_TEMPFAIL in sysexits.h), which tells the caller to try again.
    """
    replace_what_cannot_be_shown()
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
    for package in ("stance", "tasks", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    gc.freeze()  # imported modules stay, so no collection needs to visit them again: 0.2 s each with torch and vLLM
    try:
        stage()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, Unreachable) else 1)
