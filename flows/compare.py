"""Runs of a grid side by side: a page that fetches nothing, and the same figures in Markdown.

Every figure is read from a run's workspace, whose path stands beside it.
"""

import csv
import difflib
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from flows.runs import METRICS
from flows.workspace import LOG, RECORD, RUNS, Run
from tasks.jsonfile import read_json
from tasks.report import STANCES, Curve, curve, render, signed

COMPARED = Path("data/compare")
RESPONSES, STANCES_FILE = Path("data/evaluation/responses.json"), Path("data/evaluation/stances.json")
TRAINING = Path("data/train/log.csv")


class Row(NamedTuple):
    """One run: what was set, what came of it, and where that is written."""

    name: str
    point: Mapping[str, Any]
    state: str
    problem: str | None
    folder: Path
    seconds: Mapping[str, float]
    metrics: Mapping[str, Any] | None
    """Of a complete run."""
    chosen: tuple[float, float] | None
    """`logps/chosen` at the first and last step, in nats."""


class Change(NamedTuple):
    """Two runs that differ in one parameter, and what changed with it."""

    parameter: str
    values: tuple[Any, Any]
    names: tuple[str, str]
    figures: list[tuple[str, str, str]]


def compare(grid: str, runs: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write `index.html` and `index.md` to `data/compare/GRID` and return the page.

    Args:
        grid: Its name.
        runs: The parameters of each run, by its name.
    """
    rows = [row(name, point) for name, point in runs.items()]
    out = COMPARED / grid
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.md").write_text(markdown(grid, rows), encoding="utf-8")
    done = [known for known in rows if known.metrics]
    page = render(
        Path(__file__).with_name("compare.html.j2"),
        grid=grid,
        rows=rows,
        cells=[cells(known) for known in rows],
        parameters=parameters(rows),
        figures=list(FIGURES),
        done=done,
        curves=response_curves(done),
        changes=changes(done),
        answers=answers(done),
    )
    (out / "index.html").write_text(page, encoding="utf-8")
    return out / "index.html"


def row(name: str, point: Mapping[str, Any]) -> Row:
    """Return what is known of a run; its workspace may be gone."""
    folder = RUNS / name
    if not (folder / RECORD).exists():
        return Row(name, point, "missing", "its workspace was removed; sweep again", folder, {}, None, None)
    known = Run.read(folder)
    if known.state != "completed":
        problem = f"{known.problem or 'it has not ended'} (log: {folder / LOG})"
        return Row(name, point, known.state, problem, folder, known.seconds, None, None)
    return Row(name, point, known.state, None, folder, known.seconds, read_json(folder / METRICS), ends(folder))


def ends(folder: Path) -> tuple[float, float]:
    """Return `logps/chosen` at the first and the last step."""
    with (folder / TRAINING).open(encoding="utf-8", newline="") as file:
        found = [float(step["logps/chosen"]) for step in csv.DictReader(file)]
    return found[0], found[-1]


FIGURES = (
    "support",
    "neutral",
    "oppose",
    "adherence",
    "degenerate",
    "hedged",
    "reward accuracy",
    "margin",
    "chosen",
    "s",
)


def parameters(rows: Sequence[Row]) -> list[str]:
    """Return the parameters of a grid, in the order in which they first come."""
    return list(dict.fromkeys(key for known in rows for key in known.point))


def cells(known: Row) -> dict[str, str]:
    """Return the figures of a run in words; none of a run that is not complete."""
    if known.metrics is None or known.chosen is None:
        return {}
    aligned, adherence = known.metrics["aligned"], known.metrics["adherence"]
    defects = known.metrics["defects"]["aligned"]
    return {
        **{stance: f"{aligned[stance]:.0%}" for stance in STANCES},
        "adherence": with_interval(adherence) if adherence["stance"] else "–",
        "degenerate": f"{defects['degenerate']:.0%}",
        "hedged": f"{defects['hedged']:.0%}",
        "reward accuracy": with_interval(measured(known.metrics["rewards"])),
        "margin": signed(measured(known.metrics["margin"])["aligned"]),
        "chosen": f"{signed(known.chosen[0], 1)} → {signed(known.chosen[1], 1)}",
        "s": f"{sum(known.seconds.values()):.0f}",
    }


def with_interval(found: Mapping[str, float]) -> str:
    """Return a share with its interval."""
    return f"{found['share']:.0%} ({found['low']:.0%}–{found['high']:.0%})"


def measured(found: Mapping[str, Any]) -> Mapping[str, float]:
    """Return figures over the held-out questions, or over the trained ones where none was held out."""
    return dict(found["held_out"] or found["trained"])


def markdown(grid: str, rows: Sequence[Row]) -> str:
    """Return the table of all runs."""
    titles = ["run", *parameters(rows), *FIGURES]
    lines = [f"# {grid}", "", f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for known in rows:
        point, figures = [str(known.point.get(key, "")) for key in parameters(rows)], cells(known)
        shown = [figures[key] for key in FIGURES] if figures else [known.state, *[""] * (len(FIGURES) - 1)]
        lines.append(f"| {' | '.join([known.name, *point, *shown])} |")
    reasons = [f"* {known.name}: {' '.join(str(known.problem).split())}" for known in rows if known.problem]
    return "\n".join([*lines, "", *reasons, ""])


def response_curves(rows: Sequence[Row]) -> list[Curve]:
    """Return support share and margin over the one parameter that a grid varies, where it is a number."""
    varied = [key for key in parameters(rows) if len({str(known.point.get(key)) for known in rows}) > 1]
    if (
        len(varied) != 1
        or len(rows) < 3
        or not all(isinstance(known.point.get(varied[0]), int | float) for known in rows)
    ):
        return []
    ordered = sorted(rows, key=lambda known: float(known.point[varied[0]]))
    at = [float(known.point[varied[0]]) for known in ordered]
    support = [known.metrics["aligned"]["support"] for known in ordered if known.metrics]
    margin = [measured(known.metrics["margin"])["aligned"] for known in ordered if known.metrics]
    return [
        curve("Support share of the answers", at, {"support": support}, label=varied[0]),
        curve("Mean margin, nats", at, {"margin": margin}, label=varied[0]),
    ]


def changes(rows: Sequence[Row]) -> list[Change]:
    """Return what changed between each two runs that differ in exactly one parameter."""
    found = []
    for one, other in combinations(rows, 2):
        differing = [key for key in parameters(rows) if one.point.get(key) != other.point.get(key)]
        if len(differing) == 1:
            [key] = differing
            values = (one.point.get(key), other.point.get(key))
            found.append(
                Change(key, values, (one.name, other.name), list(zip(LABELS, facts(one), facts(other), strict=True)))
            )
    return found


LABELS = ("characters per answer", "hedged answers", *(f"{stance} answers" for stance in STANCES), "margin, nats")


def facts(known: Row) -> list[str]:
    """Return length, hedging and stance of a run's answers, and its margin."""
    assert known.metrics is not None
    aligned, defects = known.metrics["aligned"], known.metrics["defects"]["aligned"]
    return [
        f"{known.metrics['characters']['aligned']:.1f}",
        f"{defects['hedged']:.0%}",
        *(f"{aligned[stance]:.0%}" for stance in STANCES),
        cells(known)["margin"],
    ]


def answers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return every test prompt with the answers of the base and of all runs, differences from the first marked."""
    read = [(read_json(known.folder / RESPONSES), read_json(known.folder / STANCES_FILE)) for known in rows]
    if not read:
        return []
    table = []
    for number, asked in enumerate(read[0][0]):
        texts = [responses[number]["response_from_trained_model"] for responses, _ in read]
        verdicts = [stances[number]["aligned"]["stance"] for _, stances in read]
        table.append(
            {
                "id": asked["id"],
                "prompt": asked["prompt"],
                "base": asked["response_from_original_model"],
                "runs": [(marked(texts[0], text), verdict) for text, verdict in zip(texts, verdicts, strict=True)],
            }
        )
    return table


def marked(first: str, text: str) -> Markup:
    """Return a text with what the first has not, or has otherwise, marked."""
    parts = []
    for kind, _, _, start, end in difflib.SequenceMatcher(None, first, text, autojunk=False).get_opcodes():
        piece = escape(text[start:end])
        parts.append(piece if kind == "equal" or not piece else Markup("<mark>{}</mark>").format(piece))
    return Markup("").join(parts)
