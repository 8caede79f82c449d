"""One configuration from nothing to its report: `dvc repro` beside the course's notebook, in one run on one machine.

    python -m benchmarks.breeze_shape /tmp/breeze && python -m benchmarks.whole_run /tmp/breeze OUT.json [--longer 33]
    python -m benchmarks.whole_run --small MODEL OUT.json      # a CPU, a narrow model, as a rehearsal

`benchmarks/course_run.py` starts every stage by hand. Here DVC does, as for a user: most stages are forks of one
process that has imported the packages (`stance/runs/fork_server.py`), and DVC's own time counts. The job is that of the
course with answers of 30 tokens. The second run of `dvc repro` has another `support_ratio`. The notebook comes last,
when all files are in memory, and its seconds lack the start and the end of its process.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.course_run import (
    PROMPTS,
    SMALL_TOKENS,
    TOKENS,
    baseline,
    machine,
    own_times,
    write_dataset,
    write_params,
)
from benchmarks.dvc_overhead import copy_project
from benchmarks.watch import cost
from stance.machine.files import write_json

RATIOS = (1.0, 0.5)


def whole_run(model: Path, small: bool, longer: int) -> dict[str, Any]:
    """Measure `dvc repro` for both ratios, and the notebook."""
    limit = (SMALL_TOKENS if small else TOKENS)[0]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy_project(folder)
        write_dataset(folder / "source", 50, PROMPTS, longer)
        ours: dict[str, Any] = {}
        for ratio in RATIOS:
            write_params(folder, model, small, limit, pairs__support_ratio=ratio)
            ours[str(ratio)] = repro(folder, str(ratio))
        notebook = baseline("notebook", folder, model, (limit,))
    return {"machine": machine(), "ours": ours, "notebook": notebook, "summary": summary(ours, notebook["seconds"])}


def repro(folder: Path, label: str) -> dict[str, Any]:
    """Run `dvc repro`, and return its seconds, those of each stage, and what stages say of their own."""
    log = folder / f"{label}.log"
    seconds = cost([sys.executable, "-u", "-m", "dvc", "repro"], folder, log).seconds
    stages = stage_seconds(log.read_text(encoding="utf-8"), seconds)
    return {"seconds": seconds, "stages": stages, "said": own_times(folder, label)}


def stage_seconds(log: str, end: float) -> dict[str, float]:
    """Return the seconds from the start of each stage that ran to the start of the next, DVC's hashes included.

    Args:
        log: Lines that begin with the seconds since the start of `dvc repro`.
        end: Seconds of the whole `dvc repro`.
    """
    begun = [(name, float(at)) for at, name in re.findall(r"^ *([\d.]+)  Running stage '(\w+)':", log, re.MULTILINE)]
    ends = [*(at for _, at in begun[1:]), end]
    return {name: round(until - at, 1) for (name, at), until in zip(begun, ends, strict=True)}


def summary(ours: dict[str, Any], notebook: dict[str, float]) -> dict[str, Any]:
    """Return the seconds of both, and how many times faster ours is; the notebook always runs as a whole."""
    theirs = sum(notebook.values())
    first, again = (ours[str(ratio)]["seconds"] for ratio in RATIOS)
    return {
        "notebook": theirs,
        "ours": first,
        "ours_again": again,
        "times_faster": theirs / first,
        "times_faster_again": theirs / again,
    }


def main() -> None:
    """Measure, print, and write the JSON that the command line names."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("out", type=Path)
    ask.add_argument("--small", action="store_true")
    ask.add_argument("--longer", type=int, default=0, help="characters that each answer is made longer by (default: 0)")
    options = ask.parse_args()
    result = whole_run(options.model, options.small, options.longer)
    write_json(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
