"""What is known of each run of a grid: what was set, what came of it, what it took."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stance.data.answers import RESPONSES, read_responses
from stance.data.metrics import METRICS, Metrics, Share
from stance.data.verdicts import STANCES_FILE, read_prompt_verdicts
from stance.errors import InputError
from stance.language.translation import _
from stance.machine.files import lookup, read_yaml
from stance.runs.finished import PARAMS
from stance.runs.record import LOG, RECORD, Run
from stance.runs.workspace import RUNS

PAIRS = Path("data/pairs")
TRAINING = Path("data/train/log.csv")


class Row(NamedTuple):
    """One run: what was set, what came of it, and where that is written."""

    name: str
    point: Mapping[str, Any]
    state: str
    problem: str | None
    folder: Path
    seconds: Mapping[str, float]
    memory: Mapping[str, int]
    """MiB of RAM at the peak of each stage that ran rather than came from the cache."""
    gpu_memory: Mapping[str, int]
    """MiB in use on the GPU at the same."""
    metrics: Metrics | None
    """Of a complete run."""
    chosen: tuple[float, float] | None
    """`logps/chosen` at the first and last step, in nats."""


def row(name: str, point: Mapping[str, Any], reason: str | None = None) -> Row:
    """Return what is known of a run; its workspace may be gone, or files of it.

    Args:
        name: Its name.
        point: What was set.
        reason: Why the sweep could not bring it to its end, where it was tried just now.
    """
    folder = RUNS / name
    if not (folder / RECORD).exists():
        problem = reason or _("its workspace was removed; sweep again")
        return Row(name, point, "missing", problem, folder, {}, {}, {}, None, None)
    known = Run.read(folder)
    took = (known.seconds, known.memory, known.gpu_memory)
    if known.state != "completed":
        problem = reason or known.problem or _("it has not ended")
        problem = _("{problem} (log: {path})").format(problem=problem, path=folder / LOG)
        return Row(name, point, known.state, problem, folder, *took, None, None)
    if path := lost(folder):
        problem = reason or _("{path} cannot be read; sweep again").format(path=path)
        return Row(name, point, "missing", problem, folder, *took, None, None)
    return Row(name, point, known.state, None, folder, *took, Metrics.read(folder / METRICS), ends(folder / TRAINING))


def ends(log: Path) -> tuple[float, float]:
    """Return `logps/chosen` at the first and the last step."""
    with log.open(encoding="utf-8", newline="") as file:
        found = [float(step["logps/chosen"]) for step in csv.DictReader(file)]
    return found[0], found[-1]


READ: Mapping[Path, Callable[[Path], object]] = {
    PARAMS: read_yaml,
    PAIRS / "train.jsonl": Path.stat,
    PAIRS / "eval.jsonl": Path.stat,
    TRAINING: ends,
    METRICS: Metrics.read,
    RESPONSES: read_responses,
    STANCES_FILE: read_prompt_verdicts,
}
"""What a comparison reads of a complete run, and how."""


def lost(folder: Path) -> Path | None:
    """Return the first file of a complete run that cannot be read any more, if there is one."""
    for path, read in READ.items():
        try:
            read(folder / path)
        except (InputError, LookupError, OSError, ValueError):
            return path
    return None


def as_run(name: str, point: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Any]:
    """Return what parameters a run was made with: the profile's where a grid sets them for other runs alone."""
    try:
        values = read_yaml(RUNS / name / PARAMS)
    except (InputError, OSError):  # it has no workspace, or none that is whole
        return point
    return {key: point.get(key, lookup(values, key)) for key in keys}


def written(value: object) -> str:
    """Return a parameter as people write it: 1.0 as 1, and a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def parameters(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the parameters that were set, in the order in which they first come."""
    return list(dict.fromkeys(key for point in points for key in point))


def with_interval(estimate: Share | None) -> str:
    """Return a share with its interval; a dash where there is none."""
    return f"{estimate.share:.0%} ({estimate.low:.0%}–{estimate.high:.0%})" if estimate else "–"
