"""A row of a comparison: the parameters of a run of a grid, its figures, its time and its memory."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stance.data.answers import RESPONSES, read_responses
from stance.data.metrics import METRICS, Adherence, Metrics, Share
from stance.data.trial import TRIAL, Trial
from stance.data.verdicts import STANCES_FILE, read_prompt_verdicts
from stance.errors import InputError
from stance.language.translation import _
from stance.machine.files import lookup, read_yaml
from stance.pages.render import signed
from stance.runs.finished import PARAMS
from stance.runs.record import LOG, RECORD, Run
from stance.runs.workspace import RUNS

PAIRS = Path("data/pairs")
TRAINING = Path("data/train/log.csv")


class Row(NamedTuple):
    """One run: its parameters, its results, and the folder that holds them."""

    name: str
    point: Mapping[str, Any]
    state: str
    problem: str | None
    folder: Path
    seconds: Mapping[str, float]
    memory: Mapping[str, int]
    """The peak memory of each stage that ran, and did not come from the cache, in MiB."""
    gpu_memory: Mapping[str, int]
    """The peak memory in use on the GPU during these stages, in MiB."""
    metrics: Metrics | None
    """The figures of a complete run; None for another run."""
    chosen: tuple[float, float] | None
    """`logps/chosen` at the first and last step, in nats; None for another run, and after reinforcement learning."""
    trial: Trial | None = None
    """What the adapter showed before it was merged, if it was tried."""

    @property
    def adherence(self) -> Adherence | None:
        """That of the merged model, or else of the adapter that was tried; None for a run without either."""
        measured = self.metrics or self.trial
        return measured.adherence if measured else None


def row(name: str, point: Mapping[str, Any], reason: str | None = None) -> Row:
    """Return the row of a run, also if its workspace or files of it are missing.

    Args:
        name: The name of the run.
        point: The parameters that the grid sets.
        reason: Why the run failed in the present sweep, if it did.
    """
    folder = RUNS / name
    if not (folder / RECORD).exists():
        problem = reason or _("its workspace was removed; sweep again")
        return Row(name, point, "missing", problem, folder, {}, {}, {}, None, None)
    record = Run.read(folder)
    costs = (record.seconds, record.memory, record.gpu_memory)
    trial = Trial.read(folder) if (folder / TRIAL).exists() else None
    if record.state == "trained" and trial and not reason:
        problem = _("its adapter was tried and not merged")
        return Row(name, point, record.state, problem, folder, *costs, None, ends(folder / TRAINING), trial)
    if record.state != "completed":
        problem = reason or record.problem or _("it has not ended")
        problem = _("{problem} (log: {path})").format(problem=problem, path=folder / LOG)
        return Row(name, point, record.state, problem, folder, *costs, None, None, trial)
    if path := unreadable(folder):
        problem = reason or _("{path} cannot be read; sweep again").format(path=path)
        return Row(name, point, "missing", problem, folder, *costs, None, None)
    metrics = Metrics.read(folder / METRICS)
    return Row(name, point, record.state, reason, folder, *costs, metrics, ends(folder / TRAINING), trial)


def ends(log: Path) -> tuple[float, float] | None:
    """Return `logps/chosen` at the first and the last step; None for the log of a reinforcement learning."""
    with log.open(encoding="utf-8", newline="") as file:
        steps = list(csv.DictReader(file))
    if "reward" in steps[0]:
        return None
    return float(steps[0]["logps/chosen"]), float(steps[-1]["logps/chosen"])


READ: Mapping[Path, Callable[[Path], object]] = {
    PARAMS: read_yaml,
    PAIRS / "train.jsonl": Path.stat,
    PAIRS / "eval.jsonl": Path.stat,
    TRAINING: ends,
    METRICS: Metrics.read,
    RESPONSES: read_responses,
    STANCES_FILE: read_prompt_verdicts,
}
"""The files of a complete run that a comparison reads, with their readers."""


def unreadable(folder: Path) -> Path | None:
    """Return the first file of a complete run that cannot be read any more, if there is one."""
    for path, read in READ.items():
        try:
            read(folder / path)
        except (InputError, LookupError, OSError, ValueError):
            return path
    return None


def as_run(name: str, point: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Any]:
    """Return the values of `keys` in a run: those of `point`, and else those of the run's own `params.yaml`."""
    try:
        values = read_yaml(RUNS / name / PARAMS)
    except (InputError, OSError):  # it has no workspace, or none that is whole
        return point
    return {key: point.get(key, lookup(values, key)) for key in keys}


def formatted(value: object) -> str:
    """Return a parameter as people write it: 1.0 as 1, and a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def parameters(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of all points, in the order of their first use."""
    return list(dict.fromkeys(key for point in points for key in point))


def with_interval(estimate: Share | None) -> str:
    """Return a share with its interval; a dash if there is no share."""
    return f"{estimate.share:.0%} ({estimate.low:.0%}–{estimate.high:.0%})" if estimate else "–"


def of_training(run: Row) -> dict[str, str]:
    """Return what a run's training did and took, as text, by the titles of the comparison's columns."""
    return {
        "chosen": f"{signed(run.chosen[0], 1)} → {signed(run.chosen[1], 1)}" if run.chosen else "–",
        "s": f"{sum(run.seconds.values()):.0f}",
        "GiB": gibibytes(run.memory),
        "GPU GiB": gibibytes(run.gpu_memory),
    }


def gibibytes(peaks: Mapping[str, int]) -> str:
    """Return the highest of the stages' peaks, which are in MiB, in GiB; a dash if no stage took any."""
    most = max(peaks.values(), default=0)
    return f"{most / 1024:.1f}" if most else "–"
