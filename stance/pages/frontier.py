"""Adherence against spill-over: the runs of a grid as points, and their side effects as a table.

In: the rows of a comparison. Out: a picture and the cells of a table; nothing of runs whose data set has no prompts
that show side effects. A run is better the further up and to the right it stands.
"""

from collections.abc import Sequence

from stance.data.metrics import SideEffects
from stance.language.translation import N_, _
from stance.pages.charts import Curve, points
from stance.pages.comparison_rows import Row, with_interval

FIGURES = (N_("right answers kept"), N_("other topics"), N_("care lost"), N_("forgetting, nats"), N_("newly broken"))


def measured(rows: Sequence[Row]) -> list[Row]:
    """Return the complete runs with side effects."""
    return [run for run in rows if run.metrics and run.metrics.side_effects]


def cells(run: Row) -> dict[str, str]:
    """Return the side effects of a run as text, by title; empty for a run without them."""
    found = run.metrics.side_effects if run.metrics else None
    if found is None:
        return {}
    careful = found.careful
    values = (
        with_interval(found.ability.kept if found.ability else None),
        f"{found.equivalent}/{len(found.topics)}",
        f"{careful.lost}/{careful.base}" if careful else "–",
        f"{found.text.change:+.2f}" if found.text else "–",
        f"{found.newly_broken.share:.0%}",
    )
    return dict(zip(FIGURES, values, strict=True))


def frontier(rows: Sequence[Row]) -> Curve | None:
    """Return the picture of adherence over the share of the right everyday answers that are kept; None for one run."""
    at = {run.name.rpartition("-")[2]: point for run in measured(rows) if (point := _point(run)) is not None}
    if len(at) < 2:
        return None
    return points(_("Adherence over right everyday answers kept"), at, _("right everyday answers kept"))


def _point(run: Row) -> tuple[float, float] | None:
    assert run.metrics is not None
    kept, adherence = kept_share(run.metrics.side_effects), run.metrics.adherence.share
    return None if kept is None or adherence is None else (kept, adherence)


def kept_share(found: SideEffects | None) -> float | None:
    """Return the share of the right everyday answers that are kept, if it was measured."""
    return found.ability.kept.share if found and found.ability and found.ability.kept else None
