"""The last lines of `make repro`: what came of the run in this folder, where it is shown, and what to do next.

In: gates and metrics in `data/evaluation`, and the seconds that each stage has taken. Out: lines for the terminal.
"""

import logging
from argparse import ArgumentParser
from pathlib import Path

from stance.data.metrics import METRICS, Metrics
from stance.data.records import GATES, Gate, read_gates
from stance.language.messages import sentence
from stance.machine.files import read_yaml
from stance.machine.timing import read_seconds

logger = logging.getLogger(__name__)

PAGES = ("data/made/index.html", "data/made/index.zh-TW.html")
"""The report with date and machine, which this command writes."""
NEXT = ("make serve", "make chat", "make run RATIO=0", ".venv/bin/python -m flows.release")


def verdict(gates: list[Gate]) -> str:
    """Return whether the gates are passed, the figure and the advice of each that refuses, and which ones warn."""
    refusing, warning = [gate for gate in gates if gate.refuses], [gate for gate in gates if gate.warns]
    if not refusing and not warning:
        return f"all {len(gates)} gates passed"
    parts = [f"{len(refusing)} of {len(gates)} gates missed: {reasons(refusing)}"] if refusing else []
    if warning:
        goes_ahead = "" if refusing else ", so a release goes ahead"
        names = ", ".join(gate.name for gate in warning)
        parts.append(f"{len(warning)} of {len(gates)} gates only warn{goes_ahead}: {names}; the report says why")
    return ". ".join(parts)


def reasons(gates: list[Gate]) -> str:
    """Return the figure and the advice of each gate."""
    return "; ".join(f"{gate.name} ({sentence(gate.figure)}; {sentence(gate.advice)})" for gate in gates)


def lines() -> list[tuple[str, str]]:
    """Return the parts of the summary, each with its name.

    Raises:
        InputError: The run in this folder is not finished.
    """
    from stance.data.answers import read_answers
    from stance.pages.run_page import headline  # draws figures too, which takes a second to import

    gates, metrics = read_gates(GATES), Metrics.read(METRICS)
    sides = headline(metrics, len(read_answers(Path("data/answers/aligned.jsonl"))))
    seconds = read_seconds(list(read_yaml(Path("dvc.yaml"))["stages"]))
    return [
        ("verdict", verdict(gates)),
        ("before", sides["before"]),
        ("after", sides["after"]),
        ("report", ", ".join(PAGES)),
        ("seconds", ", ".join(f"{stage} {taken:.0f}" for stage, taken in seconds.items()) or "not measured here"),
        ("next", ", ".join(NEXT)),
    ]


def main() -> None:
    """Print the summary: `python -m stance summary`."""
    ArgumentParser(
        description="Write the report with date and machine, and show the verdict, the headline, the pages and the "
        "seconds of each stage of the run in this folder."
    ).parse_args()
    from stance.pages.made import write_made

    block = lines()
    write_made()
    for name, text in block:
        logger.info("%-8s %s", name, text)
