"""The artifacts of a run in the Prefect UI: summary, answers, training curves and a link to the report."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from stance.data.answers import RESPONSES
from stance.data.metrics import METRICS, Metrics
from stance.data.questions import Stance
from stance.data.records import GATES, Gate, read_gates
from stance.language.messages import sentence
from stance.machine.files import read_json
from stance.pages.charts import curves
from stance.runs.record import Run

VERDICT = {True: "passed", False: "**missed**"}


def show(run: Run, folder: Path) -> None:
    """Show the results of a run in the UI."""
    create_markdown_artifact(summary(run, folder), key="summary", description=run.name)
    create_table_artifact(read_json(folder / RESPONSES), key="answers", description=run.name)
    for curve in curves(folder / "data/train/log.csv"):
        create_image_artifact(data_uri(curve.svg), key=curve.name.lower().replace(" ", "-"), description=curve.summary)
    create_link_artifact(
        (folder / "data/report/index.html").as_uri(), link_text="the report", key="report", description=run.name
    )


def data_uri(svg: str) -> str:
    """Return a figure as a data URI, on a white background, because its lines are drawn for a light page."""
    figure = str(svg).replace("<svg", '<svg style="background: white"', 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(figure.encode()).decode()}"


def summary(run: Run, folder: Path) -> str:
    """Return a run's parameters, figures before and after, and gates, in Markdown."""
    metrics = Metrics.read(folder / METRICS)
    gates = read_gates(folder / GATES)
    given = {"commit": run.snapshot[:12], "profile": run.profile or "params.yaml", **run.overrides}
    lines = [f"# {run.name}", "", "| parameter | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in given.items()]
    lines += ["", "| stance | before | after |", "|---|---|---|"]
    lines += [f"| {side} | {metrics.base[side]:.0%} | {metrics.aligned[side]:.0%} |" for side in get_args(Stance)]
    lines += ["", *gate_table(gates)]
    return "\n".join([*lines, "", f"The report: `{folder / 'data/report/index.html'}`", ""])


def gate_table(gates: Iterable[Gate]) -> list[str]:
    """Return verdicts as the lines of a Markdown table, whatever is in their words."""
    rows = ([gate.name, VERDICT[gate.passed], sentence(gate.figure), sentence(gate.bound)] for gate in gates)
    cells = (" | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in row) for row in rows)
    return ["| gate | verdict | found | expected |", "|---|---|---|---|", *(f"| {line} |" for line in cells)]
