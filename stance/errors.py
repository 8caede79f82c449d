"""Errors that a user can correct, and how a program reports them.

Log lines go to standard output. A wrong input becomes one sentence on standard error and an exit code.
"""

import errno
import gc
import inspect
import logging
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path


class InputError(Exception):
    """The input is wrong. The message says what was found, what was expected, and what to do next."""


class Unreachable(InputError):
    """A server did not answer or was busy. The same may work later."""


OF_A_HOOK = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_CONFIG_PARAMETERS",
    "GIT_QUARANTINE_PATH",
)
"""Variables by which git tells a hook its repository. They would send every git that is started here to that one."""
THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def prepare() -> None:
    """Make this process, and all that it starts, independent of the shell's terminal, git hook and proxy.

    Characters that the terminal lacks are shown as `?`. git finds its repository by the folder that it runs in. Servers
    on this machine are reached without a proxy.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    for name in OF_A_HOOK:
        os.environ.pop(name, None)
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in PROXIES):
        listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        hosts = [host for host in listed.split(",") if host.strip()]
        if listed.strip() != "*":
            hosts += [host for host in THIS_MACHINE if host not in hosts]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


def run(stage: Callable[[], None]) -> None:
    """Run the `main` of a stage or a command. An `InputError` ends it with its sentence and exit code 1.

    `Unreachable` ends it with exit code 75 (EX_TEMPFAIL in sysexits.h), which tells the caller to try again.
    """
    prepare()
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
    for package in ("stance", "tasks", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    gc.freeze()  # imported modules stay, so no collection needs to visit them again: 0.2 s each with torch and vLLM
    try:
        stage()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, Unreachable) else 1)
    except OSError as error:
        if not of_the_user(error):
            raise
        place = error.filename or "a file"
        print(f"error: {place} cannot be read or written ({error.strerror}); correct the cause first", file=sys.stderr)
        sys.exit(1)
    finally:
        gc.unfreeze()  # or the end of Python frees less than all, which triton's bindings report in 30 lines


def of_the_user(error: OSError) -> bool:
    """Return whether an error lies at a path of the command line, or at a full or read-only disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return True
    named = {Path(text) for argument in sys.argv[1:] if (text := argument.rpartition("=")[2])}
    place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    return place is not None and bool(named & {place, *place.parents})


def paths(stage: Callable[..., None]) -> list[Path]:
    """Return the paths on the command line of a stage: one for each parameter of its function that is a `Path`.

    `--help` and a wrong number of paths end the program, as with every command.
    """
    parser = ArgumentParser(
        prog=f"python -m tasks.{Path(sys.argv[0]).stem}",
        description=f"{(inspect.getdoc(stage) or '').partition(chr(10))[0]} `dvc repro` runs this stage with the paths "
        "of dvc.yaml.",
    )
    names = [name for name, parameter in inspect.signature(stage).parameters.items() if parameter.annotation is Path]
    for name in names:
        parser.add_argument(name, type=Path, metavar=name.upper())
    options = vars(parser.parse_args())
    return [options[name] for name in names]
