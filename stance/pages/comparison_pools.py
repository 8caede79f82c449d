"""Runs of a grid that differ in chance alone - in the seed, or in which questions were held out - taken together."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from stance.data.metrics import Metrics, Share
from stance.data.preferences import one_way, read_pairs
from stance.evaluation.intervals import share
from stance.language.translation import N_, _
from stance.machine.files import read_json
from stance.pages.comparison_rows import PAIRS, STANCES_FILE, Row, with_interval
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
    """Return what a run's parameters say of chance."""
    return [point.get(key) for key in CHANCE]


def groups(rows: Sequence[Row]) -> list[tuple[dict[str, Any], list[Row]]]:
    """Return the runs of each combination of the parameters that are not chance, in the order in which they come.

    Of runs with the same chance as well, which is one run under several names, it is the first.
    """
    found: list[tuple[dict[str, Any], list[Row]]] = []
    for known in rows:
        others = {key: value for key, value in known.point.items() if key not in CHANCE}
        alike = next((runs for point, runs in found if point == others), None)
        if alike is None:
            found.append((others, [known]))
        elif known.point not in [run.point for run in alike]:
            alike.append(known)
    return found


def pools(rows: Sequence[Row]) -> list[tuple[dict[str, Any], list[Row]]]:
    """Return what `groups` does, or nothing where no group has a second run."""
    found = groups(rows)
    return found if any(len(runs) > 1 for _, runs in found) else []


def counted(runs: Sequence[Row]) -> str:
    """Return how many runs are complete, and of how many if some are not."""
    done = sum(known.metrics is not None for known in runs)
    return str(done) if done == len(runs) else _("{number} of {all}").format(number=done, all=len(runs))


def cells(runs: Sequence[Row]) -> dict[str, str]:
    """Return the figures of runs taken together, in words; none where no run is complete."""
    done = [(known.folder, known.metrics) for known in runs if known.metrics]
    if not done:
        return {}
    return {
        **adherence(done),
        **rewards(done),
        "margin by run": spread([metrics.margin.unseen.aligned for _, metrics in done], signed),
    }


def adherence(done: Sequence[tuple[Path, Metrics]]) -> dict[str, str]:
    """Return how many answers of all runs hold the stance that was chosen, if one was."""
    measured = [(held, answered(folder)) for folder, metrics in done if (held := metrics.adherence.interval)]
    return together(FIGURES[:3], measured) if len(measured) == len(done) else dict.fromkeys(FIGURES[:3], "–")


def rewards(done: Sequence[tuple[Path, Metrics]]) -> dict[str, str]:
    """Return on how many questions of all runs chosen beats the opposite answer, if any stands in one direction."""
    measured = [(reward, directed(folder)) for folder, metrics in done if (reward := metrics.rewards.unseen)]
    return together(FIGURES[3:6], measured) if measured else dict.fromkeys(FIGURES[3:6], "–")


def answered(folder: Path) -> list[str]:
    """Return the test prompts that a run answered."""
    return [str(found["id"]) for found in read_json(folder / STANCES_FILE)]


def directed(folder: Path) -> list[str]:
    """Return the questions that `Rewards.unseen` is over: held out or, without such, trained on; in one direction."""
    return list(one_way(read_pairs(folder / PAIRS / "eval.jsonl") or read_pairs(folder / PAIRS / "train.jsonl")))


def together(titles: Sequence[str], measured: Sequence[Counted]) -> dict[str, str]:
    """Return the share over all runs with its interval, of how many it is, and the shares by run, under titles."""
    total = sum(estimate.total for estimate, _ in measured)
    different = len({question for _, questions in measured for question in questions})
    figures = (
        with_interval(share(sum(estimate.count for estimate, _ in measured), total)),
        str(total) if different == total else f"{total} ({different})",
        spread([estimate.share for estimate, _ in measured], percent),
    )
    return dict(zip(titles, figures, strict=True))


def spread(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """Return the mean of figures, with the least and the most."""
    found = {"mean": fmean(values), "least": min(values), "most": max(values)}
    return _("{mean} ({least} to {most})").format(**{name: shown(value) for name, value in found.items()})
