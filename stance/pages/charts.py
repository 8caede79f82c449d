"""Figures of the training for a page: each curve is an SVG image inside the page's HTML.

In: columns of numbers, such as those of `log.csv`. Out: a `Curve`, the image with its texts. The same numbers give the
same bytes on every machine.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import RcKeyType

from stance.language.translation import N_, _, listed
from stance.pages.render import short

CURVES = (
    (N_("Loss"), ("loss",)),
    (N_("Reward margin"), ("rewards/margins",)),
    (N_("Reward accuracy"), ("rewards/accuracies",)),
    (N_("Log-probability of the answers"), ("logps/chosen", "logps/rejected")),
)
REINFORCED = (
    (N_("Reward and independent ruler"), ("reward", "ruler")),
    (N_("Share that holds the stance"), ("stance_share",)),
    (N_("KL divergence from the reference"), ("kl",)),
    (N_("Entropy"), ("entropy",)),
    (N_("Tokens of an answer"), ("length",)),
)
"""The figures of a reinforcement learning."""
LINES = (("#1b78b8", "-"), ("#d2600c", "--"))
FEW = 60
"""The largest number of steps for which each step is drawn as a dot."""
NEAR = 0.07
"""Share of the horizontal axis below which the labels of two ticks would overlap."""
STYLE: dict[RcKeyType, Any] = {
    "axes.edgecolor": "#8a93a0",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.figsize": (4.0, 1.9),
    "figure.subplot.bottom": 0.12,
    "figure.subplot.left": 0.13,
    "figure.subplot.right": 0.985,
    "figure.subplot.top": 0.96,
    "font.size": 8,
    "grid.color": "#8a93a0",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 2.5,
    "svg.fonttype": "none",  # text stays text: it takes the page's font and colour
    "xtick.color": "#8a93a0",
    "ytick.color": "#8a93a0",
}
NOT_IN_HTML = {"Creator": None, "Date": None, "Format": None, "Type": None}


class Curve(NamedTuple):
    """A figure over the steps of the training."""

    name: str
    svg: Markup
    label: str
    """The label of the horizontal axis."""
    summary: str
    """The first and last values in words, for readers who cannot see the figure."""


def curves(log: Path) -> list[Curve]:
    """Return the figures of a training.

    Those of DPO are loss, reward margin, reward accuracy and log-probabilities. Those of a reinforcement learning are
    reward beside the independent ruler, share of answers that hold the stance, KL divergence, entropy and length.

    Args:
        log: `log.csv`, one row per optimiser step.
    """
    with log.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    figures = CURVES if "rewards/margins" in rows[0] else REINFORCED
    return [
        curve(_(name), steps, {column: [float(row[column]) for row in rows] for column in columns})
        for name, columns in figures
    ]


def curve(
    name: str,
    at: Sequence[float],
    series: Mapping[str, Sequence[float]],
    label: str | None = None,
    *,
    intervals: Sequence[tuple[float, float]] = (),
    ideal: Sequence[float] = (),
) -> Curve:
    """Return a figure of one or two columns.

    Args:
        name: The title.
        at: Horizontal positions, one per value; steps if there is no label.
        series: The values by the name of the column.
        label: The label of the horizontal axis. With a label, the ticks stand where the values are.
        intervals: The lower and the upper end of the interval of each value of the first column; empty for none.
        ideal: The values that would be ideal, drawn as a dotted line; empty for none.
    """
    with rc_context():
        rcdefaults()  # a matplotlibrc of this machine does not count
        rcParams.update(STYLE)
        # Clip paths and markers are named by hash, and a page draws each column once.
        rcParams["svg.hashsalt"] = " ".join(series)
        figure = Figure()
        axes = figure.add_subplot()
        axes.xaxis.set_major_locator(MaxNLocator(integer=label is None))
        for (column, values), (colour, dashes) in zip(series.items(), LINES, strict=False):
            marker = "o" if len(at) <= FEW else ""
            axes.plot(at, values, color=colour, linestyle=dashes, marker=marker, label=column.rpartition("/")[2])
        if label is not None:
            axes.set_xticks(ticks := apart(at), [f"{tick:g}" for tick in ticks])
        if intervals:
            axes.vlines(at, *zip(*intervals, strict=True), color=LINES[0][0], linewidth=0.9)
        if ideal:
            axes.plot(at, ideal, color="#8a93a0", linestyle=":", linewidth=1.2)
        if len(series) > 1:
            axes.legend()
        svg = _svg(figure)
    return Curve(name, svg, label or _("step"), summary(at, series, label))


def apart(at: Sequence[float]) -> list[float]:
    """Return positions in order, without those that are too near to the one before for two labels."""
    positions = sorted(set(at))
    kept = positions[:1]
    for position in positions[1:]:
        if position - kept[-1] >= NEAR * (positions[-1] - positions[0]):
            kept.append(position)
    return kept


def points(name: str, at: Mapping[str, tuple[float, float]], across: str) -> Curve:
    """Return a figure of named points, both axes from 0 to 1.

    Args:
        name: The title.
        at: The place of each point, horizontal and vertical, by its name.
        across: The label of the horizontal axis.
    """
    with rc_context():
        rcdefaults()
        rcParams.update(STYLE)
        rcParams["svg.hashsalt"] = " ".join(at)
        figure = Figure(figsize=(6.0, 3.6))
        axes = figure.add_subplot()
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.plot(*zip(*at.values(), strict=True), "o", color=LINES[0][0], markersize=5)
        for text, place in at.items():
            axes.annotate(text, place, textcoords="offset points", xytext=(5, 3))
        svg = _svg(figure)
    texts = [f"{text} {short(x)}, {short(y)}" for text, (x, y) in at.items()]
    return Curve(name, svg, across, _("; ").join(texts))


def summary(at: Sequence[float], series: Mapping[str, Sequence[float]], label: str | None) -> str:
    """Return the first and the last value of each column in words."""
    ends = [
        _("{column} from {first} to {last}").format(column=column, first=short(values[0]), last=short(values[-1]))
        for column, values in series.items()
    ]
    over = _("steps {first:g} to {last:g}") if label is None else _("{label} {first:g} to {last:g}")
    over = over.format(label=label, first=at[0], last=at[-1])
    return _("{one}, {other}").format(one=listed(ends), other=over)


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=NOT_IN_HTML)
    text = buffer.getvalue()
    # Matplotlib numbers its groups from 1 in every figure, but an id may occur only once in a page.
    return Markup(re.sub(r' id="[^"]*_\d+"', "", text[text.index("<svg") :]))
