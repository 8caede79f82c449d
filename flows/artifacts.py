"""The artifacts of a run in the Prefect UI: summary, answers, training curves and a link to the report."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from flows.pages import url
from stance.data.answers import RESPONSES, read_responses
from stance.data.metrics import METRICS, Metrics
from stance.data.questions import Stance
from stance.data.records import GATES, Gate, read_gates
from stance.data.verdicts import STANCES_FILE, read_prompt_verdicts
from stance.language.messages import sentence
from stance.pages.charts import curves
from stance.pages.made import MADE, Made, made, write_made
from stance.runs.record import Run


def verdict(gate: Gate) -> str:
    """Return the verdict of a gate in Markdown."""
    return "passed" if gate.passed else "warns" if gate.warns else "**missed**"


def show(run: Run, folder: Path) -> None:
    """Show the results of a run in the UI."""
    create_markdown_artifact(summary(run, folder), key="summary", description=run.name)
    create_table_artifact(answers(folder), key="answers", description=run.name)
    page = write_made(folder) or folder / "data/report/index.html"
    for curve in curves(folder / "data/train/log.csv"):
        name = curve.name.lower().replace(" ", "-")
        create_image_artifact(drawn(folder, name, curve.svg), key=name, description=curve.summary)
    create_link_artifact(url(page) or page.as_uri(), link_text="the report", key="report", description=run.name)


def answers(folder: Path) -> list[dict[str, Any]]:
    """Return both answers to each test prompt with the judge's stances, as the rows of a table."""
    stances = {row.id: row for row in read_prompt_verdicts(folder / STANCES_FILE)}
    return [
        {
            "prompt": row.prompt,
            "before": f"{row.response_from_original_model} [{stances[row.id].base.stance}]",
            "after": f"{row.response_from_trained_model} [{stances[row.id].aligned.stance}]",
        }
        for row in read_responses(folder / RESPONSES)
    ]


def drawn(folder: Path, name: str, svg: str) -> str:
    """Return the address of a figure at the server of `make ui`; without that server, the figure as a data URI."""
    path = folder / MADE / f"{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(on_white(svg), encoding="utf-8")
    return url(path) or data_uri(svg)


def on_white(svg: str) -> str:
    """Return a figure on a white background, because its lines are drawn for a light page."""
    return str(svg).replace("<svg", '<svg style="background: white"', 1)


def data_uri(svg: str) -> str:
    """Return a figure as a data URI."""
    return f"data:image/svg+xml;base64,{base64.b64encode(on_white(svg).encode()).decode()}"


def summary(run: Run, folder: Path) -> str:
    """Return a run's parameters, figures before and after, and gates, in Markdown."""
    metrics = Metrics.read(folder / METRICS)
    gates = read_gates(folder / GATES)
    given = {"commit": run.snapshot[:12], "profile": run.profile or "params.yaml", **run.overrides}
    lines = [f"# {run.name}", "", "| parameter | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in given.items()]
    lines += ["", "| stance | before | after |", "|---|---|---|"]
    lines += [f"| {side} | {metrics.base[side]:.0%} | {metrics.aligned[side]:.0%} |" for side in get_args(Stance)]
    lines += ["", *gate_table(gates), "", *made_table(made(folder))]
    return "\n".join([*lines, "", f"The report: `{folder / 'data/report/index.html'}`", ""])


def made_table(facts: Made) -> list[str]:
    """Return date, duration, machine and versions as the lines of a Markdown table."""
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    rows = {
        "date": facts.date,
        "seconds": f"{sum(facts.seconds.values()):.0f}, of the stages that ran",
        "machine": facts.machine,
        "versions": versions,
    }
    return ["| made | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]


def gate_table(gates: Iterable[Gate]) -> list[str]:
    """Return verdicts as the lines of a Markdown table, whatever is in their words."""
    rows = ([gate.name, verdict(gate), sentence(gate.figure), sentence(gate.bound)] for gate in gates)
    cells = (" | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in row) for row in rows)
    return ["| gate | verdict | found | expected |", "|---|---|---|---|", *(f"| {line} |" for line in cells)]
