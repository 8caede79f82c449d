"""The library that the DVC stages and the Prefect flows share, with one sub-package per noun.

Every program of this project imports this module first. Therefore this module also reports a wrong interpreter: a
Python that is too old, or that lacks a package. It keeps no list of packages. It reports the import that failed.
"""

import logging
import os
import sys
from pathlib import Path
from types import TracebackType

PROJECT = ("stance", "tasks", "flows", "benchmarks", "tests")
"""Packages of this project; if a module of theirs is missing, the code is wrong, not the interpreter."""
ENVIRONMENT = Path(__file__).parents[1] / ".venv"
"""The folder that `make environment` makes, if this is the project and not a workspace."""

if sys.version_info < (3, 11):  # noqa: UP036 - any Python may run this file
    sys.exit(
        "error: {} is Python {}.{}; expected 3.11 or 3.12: run `make environment`, then use .venv/bin/python".format(
            sys.executable, *sys.version_info[:2]
        )
    )

# Threads of OpenMP wait for work by spinning, and on a busy machine they take the time of those that work. Waiting
# asleep gives the same bytes (benchmarks/busy.py). Stages, commands and the engines that they start inherit this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# CUDA's own order begins with the fastest GPU. In this order its numbers are those of nvidia-smi.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")

# While it is imported, bitsandbytes advises a package for processors with AVX-512, which fetches code from the Hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception that nothing caught: a missing package as one sentence, any other with its traceback."""
    name = str(getattr(error, "name", None)).partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and name not in PROJECT:
        print(f"error: {missing(name)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def missing(name: str) -> str:
    """Return the sentence about a package that this Python does not have."""
    found = f"{sys.executable} has no package {name}"
    if Path(sys.prefix) == ENVIRONMENT:
        return f"{found}, so .venv is incomplete: remove the folder .venv, then run `make environment`"
    chosen = ", and unset STANCE_PYTHON or let it name that" if os.environ.get("STANCE_PYTHON") else ""
    return f"{found}; expected this project's own Python: run `make environment`, then use .venv/bin/python{chosen}"


sys.excepthook = explain
