"""How often the stance classifier is right, and stances for any file of answers."""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stance.data.questions import Question, Stance, read_questions
from stance.data.tables import decoded
from stance.errors import InputError
from stance.evaluation.classifier import STANCES, Judge, Labelled, Verdict, read_labelled

SOURCES = Path("data/sources")
CORPUS, VALIDATION = SOURCES / "stance/corpus.jsonl", SOURCES / "stance/validation"
WORST = 12
"""Cases that are shown."""


def left_out(questions: Sequence[Question], corpus: Sequence[Labelled]) -> list[tuple[Labelled, Verdict]]:
    """Return the verdicts on the answers of every question by a judge that was not taught it."""
    found = []
    for number, question in enumerate(questions):
        judge = Judge.fit([*questions[:number], *questions[number + 1 :]], corpus)
        sides: tuple[Stance, ...] = ("support", "oppose")
        rows = [
            Labelled(topic="", prompt=question.prompt, response=getattr(question, side), stance=side, kind="data set")
            for side in sides
        ]
        found += judged(judge, rows)
    return found


def judged(judge: Judge, rows: Sequence[Labelled]) -> list[tuple[Labelled, Verdict]]:
    """Return each labelled answer with the judge's verdict."""
    verdicts = judge.verdicts([row.prompt for row in rows], [row.response for row in rows])
    return list(zip(rows, verdicts, strict=True))


def validation(title: str, found: Sequence[tuple[Labelled, Verdict]]) -> list[Table]:
    """Return accuracy, confusion and the worst cases, as tables."""
    right = sum(row.stance == verdict.stance for row, verdict in found)
    table = Table(
        "labelled", *STANCES, "right", title=f"{title}: {right} of {len(found)} right, {right / len(found):.1%}"
    )
    for stance in STANCES:
        counts = Counter(verdict.stance for row, verdict in found if row.stance == stance)
        if counts:
            table.add_row(stance, *(str(counts[other]) for other in STANCES), f"{counts[stance] / counts.total():.0%}")
    wrong = [(row, verdict) for row, verdict in found if row.stance != verdict.stance]
    worst = sorted(wrong, key=lambda item: -abs(item[1].score))[:WORST]
    cases = Table("kind", "prompt", "answer", "labelled", "judged", "score", title="the worst cases")
    for row, verdict in worst:
        cases.add_row(row.kind, row.prompt, row.response, row.stance, verdict.stance, f"{verdict.score:+.2f}")
    return [table, cases] if worst else [table]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON list or of JSON lines, each with the texts `prompt` and `response`."""
    try:
        text = decoded(path, path.read_bytes()).strip()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a JSON list or JSONL of prompt and response") from None
    if text.startswith("["):
        raw = _parse(text, str(path))
    else:
        lines = filter(str.strip, text.split("\n"))  # not splitlines: a text may hold a U+2028
        raw = [_parse(line, f"{path}, row {number}") for number, line in enumerate(lines, start=1)]
    return [_row(row, f"{path}, row {number}") for number, row in enumerate(raw, start=1)]


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise InputError(f"{where} is not JSON: {problem}; expected a JSON list or one object per line") from None


def _row(row: Any, where: str) -> dict[str, Any]:
    if isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("prompt", "response")):
        return row
    raise InputError(f"{where} has no texts prompt and response; give every row both")


def main() -> None:
    """Print every row of a file with its stance and score, or how often the judge is right."""
    parser = argparse.ArgumentParser(prog="python -m stance label", description=main.__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="JSON list or JSONL with prompt and response")
    parser.add_argument("--dataset", type=Path, default=Path("data/dataset"), help="data set that teaches the topic")
    parser.add_argument("--validate", action="store_true", help="judge the labelled answers that taught nothing")
    parser.add_argument(
        "--leave-one-out", type=Path, metavar="DATASET", help="judge each question of a data set untaught"
    )
    args = parser.parse_args()
    corpus = read_labelled(CORPUS)
    if args.validate:
        for path in sorted(VALIDATION.glob("*.jsonl")):
            judge = Judge.fit(read_questions(SOURCES / path.stem), corpus)
            Console(width=120, markup=False, emoji=False).print(
                *validation(path.stem, judged(judge, read_labelled(path)))
            )
    if args.leave_one_out:
        Console(width=120, markup=False, emoji=False).print(
            *validation(str(args.leave_one_out), left_out(read_questions(args.leave_one_out), corpus))
        )
    if args.file:
        rows = read_rows(args.file)
        judge = Judge.fit(read_questions(args.dataset), corpus)
        verdicts = judge.verdicts([row["prompt"] for row in rows], [row["response"] for row in rows])
        for row, verdict in zip(rows, verdicts, strict=True):
            print(json.dumps(row | verdict._asdict(), ensure_ascii=False))
    if not (args.validate or args.leave_one_out or args.file):
        parser.error("name a file, or --validate, or --leave-one-out DATASET")
