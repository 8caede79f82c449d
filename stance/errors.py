"""How a stage talks to whoever started it: log lines on standard output, and one sentence when its input is wrong."""

import gc
import logging
import os
import sys
from collections.abc import Callable


class InputError(Exception):
    """The input is wrong; the message says what was found, what was expected and what to do next."""


class Unreachable(InputError):
    """A server did not answer or was busy; the same may work later."""


def run(stage: Callable[[], None]) -> None:
    """Run the `main` of a stage; an `InputError` becomes its sentence on standard error and exit code 1.

    `Unreachable` ends with 75, EX_TEMPFAIL of sysexits.h, so that whoever started the stage knows to try again.
    """
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
    for package in ("stance", "tasks", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    gc.freeze()  # what is imported stays, and no collection needs to walk it again: 0.2 s each with torch and vLLM
    try:
        stage()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, Unreachable) else 1)
