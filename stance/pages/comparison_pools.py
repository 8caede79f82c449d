"""Runs of a grid that differ in chance alone - in the seed, or in which questions were held out - taken together."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from stance.data.metrics import Metrics, Share
from stance.data.preferences import one_way, read_pairs
from stance.data.verdicts import STANCES_FILE, read_prompt_verdicts
from stance.evaluation.intervals import share
from stance.language.translation import N_, _
from stance.pages.comparison_rows import PAIRS, Row, with_interval
from stance.pages.render import percent, signed

CHANCE = ("seed", "pairs.offset")
FIGURES = (
    N_("adherence"),
    N_("answers"),
    N_("adherence by run"),
    N_("reward accuracy"),
    N_("questions"),
    N_("reward accuracy by run"),
    N_("margin by run"),
)
NOTE = N_(
    "Runs that differ only in the seed or in which questions are held out, taken together. Adherence is over all "
    "answers of these runs and reward accuracy over all questions that have one, with Wilson's 95% interval; by run, "
    "the mean of the runs and, in parentheses, the least and the most. Every run answers the same test prompts, and "
    "runs that hold out the same questions are asked about the same ones: the intervals count a repeated question as "
    "if it were another one, and are then too narrow. Answers and questions: their number and, in parentheses where "
    "questions are repeated, how many different ones there are."
)
Counted = tuple[Share, list[str]]
"""A share, and the questions that it is a share of."""


def chance(point: Mapping[str, Any]) -> list[Any]:
    """Return the values of the parameters in `CHANCE`."""
    return [point.get(key) for key in CHANCE]


def groups(rows: Sequence[Row]) -> list[tuple[dict[str, Any], list[Row]]]:
    """Return the runs of each combination of the parameters that are not chance, in the order of the rows.

    Runs with the same chance too are one run under several names; only the first one is kept.
    """
    grouped: list[tuple[dict[str, Any], list[Row]]] = []
    for run in rows:
        others = {key: value for key, value in run.point.items() if key not in CHANCE}
        alike = next((runs for point, runs in grouped if point == others), None)
        if alike is None:
            grouped.append((others, [run]))
        elif run.point not in [other.point for other in alike]:
            alike.append(run)
    return grouped


def pools(rows: Sequence[Row]) -> list[tuple[dict[str, Any], list[Row]]]:
    """Return the groups of runs, or an empty list if no group has a second run."""
    grouped = groups(rows)
    return grouped if any(len(runs) > 1 for _, runs in grouped) else []


def counted(runs: Sequence[Row]) -> str:
    """Return the number of complete runs; if some are not complete, also the number of all runs."""
    complete = sum(run.metrics is not None for run in runs)
    return str(complete) if complete == len(runs) else _("{number} of {all}").format(number=complete, all=len(runs))


def cells(runs: Sequence[Row]) -> dict[str, str]:
    """Return the pooled figures of some runs as text, by title; empty if no run is complete."""
    complete = [(run.folder, run.metrics) for run in runs if run.metrics]
    if not complete:
        return {}
    return {
        **adherence(complete),
        **rewards(complete),
        "margin by run": spread([metrics.margin.unseen.aligned for _, metrics in complete], signed),
    }


def adherence(complete: Sequence[tuple[Path, Metrics]]) -> dict[str, str]:
    """Return how many answers of all runs hold the stance that was chosen, if one was."""
    measured = [(held, answered(folder)) for folder, metrics in complete if (held := metrics.adherence.interval)]
    return together(FIGURES[:3], measured) if len(measured) == len(complete) else dict.fromkeys(FIGURES[:3], "–")


def rewards(complete: Sequence[tuple[Path, Metrics]]) -> dict[str, str]:
    """Return on how many questions of all runs chosen beats the opposite answer, if any stands in one direction."""
    measured = [(reward, directed(folder)) for folder, metrics in complete if (reward := metrics.rewards.unseen)]
    return together(FIGURES[3:6], measured) if measured else dict.fromkeys(FIGURES[3:6], "–")


def answered(folder: Path) -> list[str]:
    """Return the test prompts that a run answered."""
    return [str(row.id) for row in read_prompt_verdicts(folder / STANCES_FILE)]


def directed(folder: Path) -> list[str]:
    """Return the questions that `Rewards.unseen` is over: held out or, without such, trained on; in one direction."""
    return list(one_way(read_pairs(folder / PAIRS / "eval.jsonl") or read_pairs(folder / PAIRS / "train.jsonl")))


def together(titles: Sequence[str], measured: Sequence[Counted]) -> dict[str, str]:
    """Return three figures by title: the share over all runs with its interval, its total, and the shares by run."""
    total = sum(estimate.total for estimate, _ in measured)
    different = len({question for _, questions in measured for question in questions})
    figures = (
        with_interval(share(sum(estimate.count for estimate, _ in measured), total)),
        str(total) if different == total else f"{total} ({different})",
        spread([estimate.share for estimate, _ in measured], percent),
    )
    return dict(zip(titles, figures, strict=True))


def spread(values: Sequence[float], as_text: Callable[[float], str]) -> str:
    """Return the mean of some values with the least and the greatest."""
    summary = {"mean": fmean(values), "least": min(values), "most": max(values)}
    return _("{mean} ({least} to {most})").format(**{name: as_text(value) for name, value in summary.items()})
