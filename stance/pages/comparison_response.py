"""The headline of a comparison, and its curves over the parameter that differs."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from stance.data.metrics import Share
from stance.data.verdicts import STANCES_FILE, read_prompt_verdicts
from stance.evaluation.intervals import share
from stance.language.translation import _, word
from stance.pages.charts import Curve, curve
from stance.pages.comparison_pools import groups
from stance.pages.comparison_rows import Row, formatted, parameters
from stance.pages.render import percent

RATIO = "pairs.support_ratio"
"""The parameter whose ideal share of support is its own value."""


class Response(NamedTuple):
    """The groups of runs over the only parameter that differs, in the order of its values."""

    key: str
    at: list[float]
    groups: list[list[Row]]


def response(rows: Sequence[Row]) -> Response | None:
    """Return the groups of runs over the parameter of a grid, if only one differs, is a number and has three values.

    Runs that differ only in chance are one group.
    """
    points = groups(rows)
    keys = parameters([point for point, _ in points])
    varied = [key for key in keys if any(point.get(key) != points[0][0].get(key) for point, _ in points)]
    if len(varied) != 1 or len(points) < 3 or not all(number(point.get(varied[0])) for point, _ in points):
        return None
    points.sort(key=lambda group: float(group[0][varied[0]]))
    return Response(varied[0], [float(point[varied[0]]) for point, _ in points], [runs for _, runs in points])


def number(value: object) -> bool:
    """Is a value of a parameter a number?"""
    return isinstance(value, int | float) and not isinstance(value, bool)


def supporting(runs: Sequence[Row]) -> Share:
    """Return the share of the answers of complete runs that support, with its interval."""
    asked = [
        (run.metrics.aligned.support, len(read_prompt_verdicts(run.folder / STANCES_FILE)))
        for run in runs
        if run.metrics
    ]
    return share(sum(round(part * total) for part, total in asked), sum(total for _part, total in asked))


def response_curves(rows: Sequence[Row]) -> list[Curve]:
    """Return the curves of support share and margin over the parameter of a grid, where there is a `response`.

    A point is the mean of the runs that differ only in chance. The ideal share of support is the ratio of the pairs.
    """
    over = response(rows)
    if over is None:
        return []
    metrics_of = [[run.metrics for run in runs if run.metrics] for runs in over.groups]
    support = [fmean(metrics.aligned.support for metrics in runs) for runs in metrics_of]
    margins = [fmean(metrics.margin.unseen.aligned for metrics in runs) for runs in metrics_of]
    shares = [supporting(runs) for runs in over.groups]
    return [
        curve(
            _("Support share of the answers"),
            over.at,
            {word("support"): support},
            label=over.key,
            intervals=[(estimate.low, estimate.high) for estimate in shares],
            ideal=over.at if over.key == RATIO else (),
        ),
        curve(_("Mean margin, nats"), over.at, {_("margin"): margins}, label=over.key),
    ]


def headline(rows: Sequence[Row]) -> str:
    """Return what the comparison shows, in a sentence.

    Args:
        rows: The runs that are complete, or whose adapters were tried.
    """
    if all(run.metrics for run in rows) and (over := response(rows)):
        ends = [supporting(over.groups[place]).share for place in (0, -1)]
        text = _("{key} from {first} to {last}: support goes from {low} to {high} of the answers.")
        values = {"first": formatted(over.at[0]), "last": formatted(over.at[-1])}
        return text.format(key=over.key, low=percent(ends[0]), high=percent(ends[1]), **values)
    held = {run.name: run.adherence.share for run in rows if run.adherence and run.adherence.share is not None}
    if not held:
        return _("No complete run has a chosen stance to compare.")
    least, most = min(held, key=held.__getitem__), max(held, key=held.__getitem__)
    if held[least] == held[most]:
        return _("Every run holds its stance in {share} of the answers.").format(share=percent(held[most]))
    text = _("{most} holds its stance most, in {high} of the answers, and {least} least, in {low}.")
    return text.format(most=most, high=percent(held[most]), least=least, low=percent(held[least]))
