"""Runs of a grid that differ in chance alone - in the seed, or in which questions were held out - taken together."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from flows.rows import Row, measured, with_interval
from tasks.intervals import share
from tasks.jsonfile import read_json, read_jsonl
from tasks.language import N_, _
from tasks.report import percent, signed

CHANCE = ("seed", "pairs.offset")
STANCES_FILE, PAIRS = Path("data/evaluation/stances.json"), Path("data/pairs")
FIGURES = (
    N_("adherence"),
    N_("answers"),
    N_("adherence by run"),
    N_("reward accuracy"),
    N_("pairs"),
    N_("reward accuracy by run"),
    N_("margin by run"),
)
NOTE = N_(
    "Runs that differ only in the seed or in which questions are held out, taken together. Adherence and reward "
    "accuracy are over all answers and all pairs of these runs, with Wilson's 95% interval; by run, the mean of the "
    "runs and, in parentheses, the least and the most. Every run answers the same test prompts, and runs that hold out "
    "the same questions are asked about the same pairs: the intervals count a repeated question as if it were another "
    "one, and are then too narrow. Answers and pairs: their number and, in parentheses where questions are repeated, "
    "how many different ones there are."
)


class Tally(NamedTuple):
    """How often something held, and the question of each time."""

    held: int
    questions: list[int]


def chance(point: Mapping[str, Any]) -> list[Any]:
    """Return what a run's parameters say of chance."""
    return [point.get(key) for key in CHANCE]


def groups(rows: Sequence[Row]) -> list[tuple[dict[str, Any], list[Row]]]:
    """Return the runs of each combination of the parameters that are not chance, in the order in which they come."""
    found: list[tuple[dict[str, Any], list[Row]]] = []
    for known in rows:
        others = {key: value for key, value in known.point.items() if key not in CHANCE}
        alike = next((runs for point, runs in found if point == others), None)
        if alike is None:
            found.append((others, [known]))
        else:
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
        **interval("reward accuracy", "pairs", [pairs(folder, metrics["rewards"]) for folder, metrics in done]),
        "reward accuracy by run": spread([measured(metrics["rewards"])["share"] for _, metrics in done], percent),
        "margin by run": spread([measured(metrics["margin"])["aligned"] for _, metrics in done], signed),
    }


def adherence(done: Sequence[tuple[Path, Mapping[str, Any]]]) -> dict[str, str]:
    """Return how many answers of all runs hold the stance that was chosen, if one was."""
    if not all(metrics["adherence"]["stance"] for _, metrics in done):
        return dict.fromkeys(FIGURES[:3], "–")
    tallies = [answers(folder, metrics["adherence"]["stance"]) for folder, metrics in done]
    by_run = spread([metrics["adherence"]["share"] for _, metrics in done], percent)
    return {**interval("adherence", "answers", tallies), "adherence by run": by_run}


def answers(folder: Path, stance: str) -> Tally:
    """Return how many of a run's answers hold a stance."""
    rows = read_json(folder / STANCES_FILE)
    return Tally(sum(found["aligned"]["stance"] == stance for found in rows), [found["id"] for found in rows])


def pairs(folder: Path, rewards: Mapping[str, Any]) -> Tally:
    """Return in how many of a run's pairs chosen beats rejected, from their share and the file that lists them.

    They are those that `measured` is about: held out, or trained on where none was held out.
    """
    rows = read_jsonl(folder / PAIRS / ("eval.jsonl" if rewards["held_out"] else "train.jsonl"))
    asked = list(dict.fromkeys(found["id"] for found in rows))
    return Tally(round(measured(rewards)["share"] * len(asked)), asked)


def interval(title: str, number: str, tallies: Sequence[Tally]) -> dict[str, str]:
    """Return the share over all tallies with its interval, and how many it was counted over, under a title each."""
    asked = [question for tally in tallies for question in tally.questions]
    different = len(set(asked))
    return {
        title: with_interval(share(sum(tally.held for tally in tallies), len(asked))),
        number: str(len(asked)) if different == len(asked) else f"{len(asked)} ({different})",
    }


def spread(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """Return the mean of figures, with the least and the most."""
    found = {"mean": fmean(values), "least": min(values), "most": max(values)}
    return _("{mean} ({least} to {most})").format(**{name: shown(value) for name, value in found.items()})
