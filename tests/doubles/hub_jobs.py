"""Processes that talk to the double of the Hub: HF_ENDPOINT is read at import, so pytest's own cannot."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.doubles.hub import Hub

ROOT = Path(__file__).parents[2]

# Imports once what its jobs need, then forks for each: importing and ending torch take seconds.
JOBS = """
import json, os, sys, traceback
from pathlib import Path
from stance.errors import run
{prepare}
for line in sys.stdin:
    job = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.chdir(job["folder"])
    os.environ.update(job["environment"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    code = 1
    try:
        exec(job["code"])
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)
os._exit(0)
"""


@dataclass
class Ended:
    """How a job ended."""

    code: int
    out: str
    err: str
    seconds: float
    folder: Path


Job = Callable[..., Ended]


def environment(hub: Hub, home: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_"))}
    return inherited | {
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2",
        "HF_XET_CLIENT_RETRY_BASE_DELAY": "100ms",
        "TOKENIZERS_PARALLELISM": "false",
    }


@contextmanager
def jobs(variables: Mapping[str, str], prepare: str, *arguments: str) -> Iterator[Job]:
    """Run pieces of code, one at a time, each in a folder and a process of its own that `prepare` has run in."""
    with subprocess.Popen(
        [sys.executable, "-c", JOBS.replace("{prepare}", prepare), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(variables),
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        to, answers = process.stdin, process.stdout

        def run(code: str, folder: Path, **more: str) -> Ended:
            started = time.monotonic()
            print(json.dumps({"code": code, "folder": str(folder), "environment": more}), file=to, flush=True)
            ended = int(answers.readline())
            took = time.monotonic() - started
            return Ended(ended, (folder / "out").read_text(), (folder / "err").read_text(), took, folder)

        yield run
        to.close()
