"""Runs of a grid side by side: a page in each language that fetches nothing, and the same figures in Markdown.

Every figure is read from a run's workspace, whose path stands beside it.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from stance.data.answers import RESPONSES, read_responses
from stance.data.records import DEGENERATE, STYLE
from stance.data.verdicts import STANCES_FILE, read_prompt_verdicts
from stance.language.translation import ENGLISH, LANGUAGES, N_, NAMES, _, speaking, spoken, word
from stance.pages import comparison_pools
from stance.pages.charts import Curve, curve
from stance.pages.comparison_pools import chance, counted, groups, pools
from stance.pages.comparison_rows import (
    Row,
    as_run,
    parameters,
    row,
    with_interval,
    written,
)
from stance.pages.render import CATALOGUE, STANCES, render, signed

COMPARED = Path("data/compare")
DEFECTS = (*DEGENERATE, *STYLE)


class Change(NamedTuple):
    """Two runs that differ in one parameter, and what changed with it."""

    parameter: str
    values: tuple[str, str]
    names: tuple[str, str]
    figures: list[tuple[str, str, str]]


class Said(NamedTuple):
    """What a run says to a test prompt."""

    before: str
    after: str
    stance: str


class Asked(NamedTuple):
    """A test prompt, with what each run says to it that was asked."""

    id: int
    prompt: str
    runs: list[Said | None]

    @property
    def first(self) -> Said:
        """What the first run says that was asked."""
        return next(said for said in self.runs if said)

    @property
    def one_base(self) -> bool:
        """Did all runs say the same before?"""
        return all(said.before == self.first.before for said in self.runs if said)


class Line(NamedTuple):
    """A row of a table: what it is, and its figures by title, or why there are none."""

    first: list[str]
    figures: Mapping[str, str]
    known: Row | None = None
    """The run that it is about, where it is about one."""


class Table(NamedTuple):
    """Titles of the columns that say what a row is, titles of its figures, and the rows."""

    heads: list[str]
    titles: Sequence[str]
    lines: list[Line]


def compare(
    grid: str, runs: Mapping[str, Mapping[str, Any]], reasons: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Write `index.html`, `index.zh-TW.html` and `index.md` to `data/compare/GRID` and return the first.

    Args:
        grid: Its name.
        runs: The parameters of each run, by its name.
        reasons: Why those failed that were tried just now.
    """
    out = COMPARED / grid
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.md").write_text(markdown(grid, rows_of(runs, reasons)), encoding="utf-8")
    for language in LANGUAGES:
        with speaking(language, CATALOGUE):
            text = page(grid, rows_of(runs, reasons))
        (out / language.page).write_text(text, encoding="utf-8")
    return out / "index.html"


def rows_of(runs: Mapping[str, Mapping[str, Any]], reasons: Mapping[str, str]) -> list[Row]:
    """Return what is known of each run, in the language of now."""
    keys = parameters(list(runs.values()))
    return [row(name, as_run(name, point, keys), reasons.get(name)) for name, point in runs.items()]


def page(grid: str, rows: Sequence[Row]) -> str:
    """Return the page over the runs in the language of now."""
    done = [known for known in rows if known.metrics]
    asked = answers(done)
    return render(
        Path(__file__).with_name("compare.html.j2"),
        grid=grid,
        rows=rows,
        runs=of_runs(rows, FIGURES, cells),
        pooled=of_pools(rows),
        note=_(comparison_pools.NOTE),
        reports={known.name: report_of(known) for known in rows},
        titled=titled,
        written=written,
        defects=of_runs(rows, DEFECTS, flaws),
        done=done,
        curves=response_curves(done),
        changes=changes(done),
        answers=asked,
        one_base=all(prompt.one_base for prompt in asked),
        marked=marked,
    )


def report_of(known: Row) -> Path | None:
    """Return the report of a run, in the language of now if it was made in that; None where it has none."""
    reports = (known.folder / "data/report" / language.page for language in (spoken(), ENGLISH))
    return next((report for report in reports if report.exists()), None)


FIGURES = (
    "support",
    "neutral",
    "oppose",
    N_("adherence"),
    "degenerate",
    "hedged",
    N_("reward accuracy"),
    N_("margin"),
    N_("chosen"),
    N_("s"),
    N_("GiB"),
    N_("GPU GiB"),
)


def titled(name: str) -> str:
    """Return the title of a column in the language of now."""
    return word(name) if name in NAMES else _(name)


def of_runs(rows: Sequence[Row], titles: Sequence[str], figures: Callable[[Row], dict[str, str]]) -> Table:
    """Return a table of all runs with some of their figures."""
    keys = parameters([known.point for known in rows])
    return Table(
        [_("run"), *keys],
        titles,
        [Line([known.name, *values(known.point, keys)], figures(known), known) for known in rows],
    )


def of_pools(rows: Sequence[Row]) -> Table:
    """Return a table of the runs that differ in chance alone, taken together; without rows where there are none."""
    found = pools(rows)
    keys = parameters([point for point, _ in found])
    lines = [Line([counted(runs), *values(point, keys)], comparison_pools.cells(runs)) for point, runs in found]
    return Table([_("runs"), *keys], comparison_pools.FIGURES, lines)


def values(point: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Return the values of parameters, empty where one is not set."""
    return [written(point.get(key, "")) for key in keys]


def cells(known: Row) -> dict[str, str]:
    """Return the figures of a run in words; none of a run that is not complete."""
    if known.metrics is None or known.chosen is None:
        return {}
    aligned, defects = known.metrics.aligned, known.metrics.defects.aligned
    return {
        **{stance: f"{aligned[stance]:.0%}" for stance in STANCES},
        "adherence": with_interval(known.metrics.adherence.interval),
        "degenerate": f"{defects['degenerate']:.0%}",
        "hedged": f"{defects['hedged']:.0%}",
        "reward accuracy": with_interval(known.metrics.rewards.unseen),
        "margin": signed(known.metrics.margin.unseen.aligned),
        "chosen": f"{signed(known.chosen[0], 1)} → {signed(known.chosen[1], 1)}",
        "s": f"{sum(known.seconds.values()):.0f}",
        "GiB": gibibytes(known.memory),
        "GPU GiB": gibibytes(known.gpu_memory),
    }


def gibibytes(peaks: Mapping[str, int]) -> str:
    """Return the highest of the stages' peaks, which are in MiB; a dash where nothing was taken."""
    most = max(peaks.values(), default=0)
    return f"{most / 1024:.1f}" if most else "–"


def flaws(known: Row) -> dict[str, str]:
    """Return the share of a run's answers with each defect; none of a run that is not complete."""
    if known.metrics is None:
        return {}
    return {name: f"{known.metrics.defects.aligned[name]:.0%}" for name in DEFECTS}


def markdown(grid: str, rows: Sequence[Row]) -> str:
    """Return the tables of the page."""
    lines = [f"# {grid}", "", *in_markdown(of_runs(rows, FIGURES, cells))]
    if reasons := [f"* {known.name}: {' '.join(str(known.problem).split())}" for known in rows if known.problem]:
        lines += ["", *reasons]
    if (together := of_pools(rows)).lines:
        lines += ["", "## Pooled", "", comparison_pools.NOTE, "", *in_markdown(together)]
    return "\n".join([*lines, "", "## Defects", "", *in_markdown(of_runs(rows, DEFECTS, flaws)), ""])


def in_markdown(table: Table) -> list[str]:
    """Return the lines of a table in Markdown."""
    titles = [*table.heads, *table.titles]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for first, figures, known in table.lines:
        instead = [known.state if known else "", *[""] * (len(table.titles) - 1)]
        shown = [figures[key] for key in table.titles] if figures else instead
        lines.append(f"| {' | '.join([*first, *shown])} |")
    return lines


def response_curves(rows: Sequence[Row]) -> list[Curve]:
    """Return support share and margin over the one parameter that a grid varies, where it is a number.

    Runs that differ in chance alone are one point, their mean.
    """
    found = groups(rows)
    keys = parameters([point for point, _ in found])
    varied = [key for key in keys if any(point.get(key) != found[0][0].get(key) for point, _ in found)]
    if (
        len(varied) != 1
        or len(found) < 3
        or not all(isinstance(point.get(varied[0]), int | float) for point, _ in found)
    ):
        return []
    found.sort(key=lambda group: float(group[0][varied[0]]))
    at = [float(point[varied[0]]) for point, _ in found]
    done = [[known.metrics for known in runs if known.metrics] for _, runs in found]
    support = [fmean(metrics.aligned.support for metrics in runs) for runs in done]
    margins = [fmean(metrics.margin.unseen.aligned for metrics in runs) for runs in done]
    return [
        curve(_("Support share of the answers"), at, {word("support"): support}, label=varied[0]),
        curve(_("Mean margin, nats"), at, {_("margin"): margins}, label=varied[0]),
    ]


def changes(rows: Sequence[Row]) -> list[Change]:
    """Return what changed between each two runs that differ in exactly one parameter, chance apart.

    Of runs that differ in chance alone it is the first two of the same chance.
    """
    found = []
    for (_one, ones), (_other, others) in combinations(groups(rows), 2):
        alike = (pair for pair in product(ones, others) if chance(pair[0].point) == chance(pair[1].point))
        one, other = next(alike, (ones[0], others[0]))
        differing = [key for key in parameters([one.point, other.point]) if one.point.get(key) != other.point.get(key)]
        if len(differing) == 1:
            [key] = differing
            set_to = (written(one.point.get(key)), written(other.point.get(key)))
            found.append(
                Change(key, set_to, (one.name, other.name), list(zip(labels(), facts(one), facts(other), strict=True)))
            )
    return found


def labels() -> list[str]:
    """Return what `facts` are."""
    by_stance = [_("{stance} answers").format(stance=word(stance)) for stance in STANCES]
    return [_("characters per answer"), _("hedged answers"), *by_stance, _("margin, nats")]


def facts(known: Row) -> list[str]:
    """Return length, hedging and stance of a run's answers, and its margin."""
    assert known.metrics is not None
    aligned, defects = known.metrics.aligned, known.metrics.defects.aligned
    return [
        f"{known.metrics.characters.aligned:.1f}",
        f"{defects['hedged']:.0%}",
        *(f"{aligned[stance]:.0%}" for stance in STANCES),
        cells(known)["margin"],
    ]


def answers(rows: Sequence[Row]) -> list[Asked]:
    """Return every test prompt that any run was asked, with the answers of all runs."""
    table: dict[tuple[int, str], Asked] = {}
    for number, known in enumerate(rows):
        judged = read_prompt_verdicts(known.folder / STANCES_FILE)
        stances = {verdicts.id: verdicts.aligned.stance for verdicts in judged}
        for response in read_responses(known.folder / RESPONSES):
            key = response.id, response.prompt
            table.setdefault(key, Asked(*key, [None] * len(rows))).runs[number] = Said(
                response.response_from_original_model, response.response_from_trained_model, stances[response.id]
            )
    return list(table.values())


def marked(first: str, text: str) -> Markup:
    """Return a text with what the first has not, or has otherwise, marked."""
    parts = []
    for kind, _from, _to, start, end in difflib.SequenceMatcher(None, first, text, autojunk=False).get_opcodes():
        piece = escape(text[start:end])
        parts.append(piece if kind == "equal" or not piece else Markup("<mark>{}</mark>").format(piece))
    return Markup("").join(parts)
