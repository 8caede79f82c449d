"""Runs of a grid side by side: a page in each language that fetches nothing, and the same figures in Markdown.

Every figure is read from a run's workspace, whose path stands beside it.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from stance.data.answers import RESPONSES, read_responses
from stance.data.records import DEGENERATE, STYLE
from stance.data.verdicts import STANCES_FILE, read_prompt_verdicts
from stance.language.detect import tag
from stance.language.translation import ENGLISH, LANGUAGES, N_, NAMES, _, speaking, spoken, word
from stance.pages import comparison_pools, comparison_trials, frontier
from stance.pages.comparison_pools import chance, counted, groups, pools
from stance.pages.comparison_response import headline, number, response_curves
from stance.pages.comparison_rows import (
    Row,
    as_run,
    formatted,
    of_training,
    parameters,
    row,
    with_interval,
)
from stance.pages.relevance import Flags, flags
from stance.pages.render import CATALOGUE, STANCES, render, signed

COMPARED = Path("data/compare")
DEFECTS = (*DEGENERATE, *STYLE)


class Change(NamedTuple):
    """Two runs that differ in one parameter, and what changed with it."""

    parameter: str
    values: tuple[str, str]
    names: tuple[str, str]
    figures: list[tuple[str, str, str]]


class RunAnswers(NamedTuple):
    """The answers of one run to a test prompt, and the stance of the aligned answer."""

    before: str
    after: str
    stance: str
    flags: list[str]
    """What is wrong with the aligned answer, as text."""


class PromptRow(NamedTuple):
    """A test prompt with the answers of each run; None for a run that was not asked."""

    id: int
    prompt: str
    runs: list[RunAnswers | None]

    @property
    def first(self) -> RunAnswers:
        """The answers of the first run that was asked."""
        return next(answers for answers in self.runs if answers)

    @property
    def one_base(self) -> bool:
        """Do the base models of all runs give the same answer?"""
        return all(answers.before == self.first.before for answers in self.runs if answers)


class Line(NamedTuple):
    """A row of a table: its first cells, and its figures by title; no figures for a run that is not complete."""

    first: list[str]
    figures: Mapping[str, str]
    run: Row | None = None
    """The run, if the row is about a single one."""


class Table(NamedTuple):
    """A table: the titles of the first cells, the titles of the figures, and the rows."""

    heads: list[str]
    titles: Sequence[str]
    lines: list[Line]


def compare(
    grid: str, runs: Mapping[str, Mapping[str, Any]], reasons: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Write `index.html`, `index.zh-TW.html` and `index.md` to `data/compare/GRID` and return the first.

    Args:
        grid: The name of the grid.
        runs: The parameters of each run, by its name.
        reasons: Why a run failed in the present sweep, by its name.
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
    """Return the row of each run, in the current language."""
    keys = parameters(list(runs.values()))
    return [row(name, as_run(name, point, keys), reasons.get(name)) for name, point in runs.items()]


def page(grid: str, rows: Sequence[Row]) -> str:
    """Return the page about the runs in the current language."""
    complete = [run for run in rows if run.metrics]
    prompts = answers(complete)
    return render(
        Path(__file__).with_name("compare.html.j2"),
        grid=grid,
        rows=rows,
        runs=of_runs(rows, FIGURES, cells),
        pooled=of_pools(rows),
        note=_(comparison_pools.NOTE),
        trials=comparison_trials.notes(rows),
        reports={run.name: report_of(run) for run in rows},
        titled=titled,
        written=formatted,
        defects=of_runs(rows, DEFECTS, flaws),
        done=complete,
        headline=headline([run for run in rows if run.adherence]),
        spilled=of_runs(frontier.measured(rows), frontier.FIGURES, frontier.cells),
        frontier=frontier.frontier(rows),
        curves=response_curves(complete),
        changes=changes(complete),
        answers=prompts,
        written_in=tag(prompt.prompt for prompt in prompts),
        one_base=all(prompt.one_base for prompt in prompts),
        marked=marked,
    )


def report_of(run: Row) -> Path | None:
    """Return the path of a run's report, in the current language or else in English; None if there is none.

    Before its end, the workspace of a run has the report of the commit that the run started from.
    """
    reports = (run.folder / "data/report" / language.page for language in (spoken(), ENGLISH))
    return next((report for report in reports if report.exists()), None) if run.metrics else None


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
    """Return the title of a column in the current language."""
    return word(name) if name in NAMES else _(name)


def of_runs(rows: Sequence[Row], titles: Sequence[str], figures: Callable[[Row], dict[str, str]]) -> Table:
    """Return a table of all runs with some of their figures."""
    keys = parameters([run.point for run in rows])
    return Table(
        [_("run"), *keys],
        titles,
        [Line([comparison_trials.titled(run), *values(run.point, keys)], figures(run), run) for run in rows],
    )


def of_pools(rows: Sequence[Row]) -> Table:
    """Return a table of the groups of runs that differ only in chance; without rows if there is no such group."""
    pooled = pools(rows)
    keys = parameters([point for point, _ in pooled])
    lines = [Line([counted(runs), *values(point, keys)], comparison_pools.cells(runs)) for point, runs in pooled]
    return Table([_("runs"), *keys], comparison_pools.FIGURES, lines)


def values(point: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Return the values of parameters, empty where one is not set."""
    return [formatted(point.get(key, "")) for key in keys]


def cells(run: Row) -> dict[str, str]:
    """Return the figures of a run as text, by title; empty for a run that is neither complete nor tried."""
    if run.metrics is None:
        return comparison_trials.cells(run, FIGURES)
    aligned, defects = run.metrics.aligned, run.metrics.defects.aligned
    return {
        **{stance: f"{aligned[stance]:.0%}" for stance in STANCES},
        "adherence": with_interval(run.metrics.adherence.interval),
        "degenerate": f"{defects['degenerate']:.0%}",
        "hedged": f"{defects['hedged']:.0%}",
        "reward accuracy": with_interval(run.metrics.rewards.unseen),
        "margin": signed(run.metrics.margin.unseen.aligned),
        **of_training(run),
    }


def flaws(run: Row) -> dict[str, str]:
    """Return the share of a run's answers with each defect, by its name; empty for a run that is not complete."""
    if run.metrics is None:
        return {}
    return {name: f"{run.metrics.defects.aligned[name]:.0%}" for name in DEFECTS}


def markdown(grid: str, rows: Sequence[Row]) -> str:
    """Return the tables of the page."""
    lines = [f"# {grid}", "", *in_markdown(of_runs(rows, FIGURES, cells))]
    lines += ["", *notes] if (notes := comparison_trials.notes(rows)) else []
    if reasons := [f"* {run.name}: {' '.join(str(run.problem).split())}" for run in rows if run.problem]:
        lines += ["", *reasons]
    if (together := of_pools(rows)).lines:
        lines += ["", "## Pooled", "", comparison_pools.NOTE, "", *in_markdown(together)]
    lines += spilled_in_markdown(rows)
    return "\n".join([*lines, "", "## Defects", "", *in_markdown(of_runs(rows, DEFECTS, flaws)), ""])


def spilled_in_markdown(rows: Sequence[Row]) -> list[str]:
    """Return the table of the side effects in Markdown, nothing if no run has any."""
    measured = frontier.measured(rows)
    table = of_runs(measured, frontier.FIGURES, frontier.cells)
    return ["", "## What else changed", "", *in_markdown(table)] if measured else []


def in_markdown(table: Table) -> list[str]:
    """Return the lines of a table in Markdown."""
    titles = [*table.heads, *table.titles]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for first, figures, run in table.lines:
        without = [run.state if run else "", *[""] * (len(table.titles) - 1)]
        texts = [figures[key] for key in table.titles] if figures else without
        lines.append(f"| {' | '.join([*first, *texts])} |")
    return lines


def changes(rows: Sequence[Row]) -> list[Change]:
    """Return the changes between runs that differ in one parameter, apart from chance.

    Where the parameter is a number, runs are compared with their neighbours only. Of two groups of runs that differ
    only in chance, the first two runs with the same chance are compared.
    """
    grouped = groups(rows)
    compared = []
    for (point, group), (other_point, other_group) in combinations(grouped, 2):
        alike = (pair for pair in product(group, other_group) if chance(pair[0].point) == chance(pair[1].point))
        first, second = next(alike, (group[0], other_group[0]))
        keys = parameters([first.point, second.point])
        differing = [key for key in keys if first.point.get(key) != second.point.get(key)]
        if len(differing) == 1 and neighbours(point, other_point, [between for between, _runs in grouped]):
            [key] = differing
            set_to = (formatted(first.point.get(key)), formatted(second.point.get(key)))
            figures = list(zip(labels(), facts(first), facts(second), strict=True))
            compared.append(Change(key, set_to, (first.name, second.name), figures))
    return compared


def neighbours(one: Mapping[str, Any], other: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> bool:
    """Is there no point whose only difference from two points is a number between theirs?"""
    keys = [key for key in parameters([one, other]) if one.get(key) != other.get(key)]
    if len(keys) != 1 or not (number(one.get(keys[0])) and number(other.get(keys[0]))):
        return True
    [key] = keys
    low, high = sorted((one[key], other[key]))
    rest = {name: value for name, value in one.items() if name != key}
    return not any(
        number(point.get(key)) and low < point[key] < high
        for point in points
        if {name: value for name, value in point.items() if name != key} == rest
    )


def labels() -> list[str]:
    """Return the names of the figures in `facts`."""
    by_stance = [_("{stance} answers").format(stance=word(stance)) for stance in STANCES]
    return [_("characters per answer"), _("hedged answers"), *by_stance, _("margin, nats")]


def facts(run: Row) -> list[str]:
    """Return the length, the hedging and the stances of a run's answers, and its margin."""
    assert run.metrics is not None
    aligned, defects = run.metrics.aligned, run.metrics.defects.aligned
    return [
        f"{run.metrics.characters.aligned:.1f}",
        f"{defects['hedged']:.0%}",
        *(f"{aligned[stance]:.0%}" for stance in STANCES),
        cells(run)["margin"],
    ]


def answers(rows: Sequence[Row]) -> list[PromptRow]:
    """Return every test prompt of any run, with the answers of all runs."""
    table: dict[tuple[int, str], PromptRow] = {}
    for place, run in enumerate(rows):
        verdicts = {judged.id: judged.aligned for judged in read_prompt_verdicts(run.folder / STANCES_FILE)}
        responses = read_responses(run.folder / RESPONSES)
        struck = flags(
            [answered.id for answered in responses],
            [answered.prompt for answered in responses],
            [answered.response_from_trained_model for answered in responses],
        )
        for answered, flag in zip(responses, struck, strict=True):
            key = answered.id, answered.prompt
            texts = answered.response_from_original_model, answered.response_from_trained_model
            verdict = verdicts[answered.id]
            both = RunAnswers(*texts, verdict.stance, flagged(verdict.defects, flag))
            table.setdefault(key, PromptRow(*key, [None] * len(rows))).runs[place] = both
    return list(table.values())


def flagged(defects: Sequence[str], flag: Flags) -> list[str]:
    """Return what is wrong with an answer, as text: defects that break a sentence, and the flag of its question."""
    broken = [word(name) for name in defects if name in DEGENERATE]
    return [*broken, _("off the question")] if flag.off else broken


def marked(first: str, text: str) -> Markup:
    """Return a text in which all that differs from the first text is marked."""
    parts = []
    for kind, _from, _to, start, end in difflib.SequenceMatcher(None, first, text, autojunk=False).get_opcodes():
        piece = escape(text[start:end])
        parts.append(piece if kind == "equal" or not piece else Markup("<mark>{}</mark>").format(piece))
    return Markup("").join(parts)
