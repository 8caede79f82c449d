"""How often the stance classifier is right, and stances for any file of answers."""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stance.data.metrics import CLASSIFIER
from stance.data.questions import read_questions
from stance.data.tables import decoded
from stance.errors import InputError
from stance.evaluation.classifier import STANCES, Labelled, Verdict, read_labelled
from stance.evaluation.fitted import fit, judged, read_classifier

SOURCES = Path("data/sources")
CORPORA, VALIDATION = SOURCES / "stance/corpus", SOURCES / "stance/validation"
WORST = 12
"""Cases that are shown."""


def validated(language: str, base: Path, device: str) -> list[tuple[str, list[tuple[Labelled, Verdict]]]]:
    """Return the verdicts on the labelled answers in a language that taught nothing, by file and topic.

    Args:
        language: A folder of `data/sources/stance/validation`.
        base: `data/base`, for a language that is judged by hidden states.
        device: `cpu` or `cuda`, where the base model computes.

    Raises:
        InputError: There is no such language.
    """
    languages = sorted(folder.name for folder in VALIDATION.iterdir()) if VALIDATION.is_dir() else []
    if language not in languages:
        names = ", ".join(languages) or f"none, because {VALIDATION} does not exist; go to the project's folder"
        raise InputError(f"no answers are labelled in the language {language!r}; expected one of: {names}")
    results = []
    for path in sorted((VALIDATION / language).glob("*.jsonl")):
        rows = read_labelled(path)
        for topic in sorted({row.topic for row in rows}):
            classifier = fit(read_questions(SOURCES / topic), CORPORA, base, device).classifier
            answers = [row for row in rows if row.topic == topic]
            title = topic if path.stem == topic else f"{path.stem} {topic}"
            results.append((title, list(zip(answers, judged(classifier, answers), strict=True))))
    return results


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
    except RecursionError:
        raise InputError(f"{where} is nested too deeply; expected a JSON list or one object per line") from None


def _row(row: Any, where: str) -> dict[str, Any]:
    if isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("prompt", "response")):
        return row
    raise InputError(f"{where} has no texts prompt and response; give every row both")


def main() -> None:
    """Print every row of a file with its stance and score, or how often the judge is right."""
    parser = argparse.ArgumentParser(prog="python -m stance label", description=main.__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="JSON list or JSONL with prompt and response")
    parser.add_argument("--dataset", type=Path, help="data set that teaches the judge (default: this folder's judge)")
    parser.add_argument(
        "--validate",
        nargs="?",
        const="zh_Hant",
        metavar="LANGUAGE",
        help="judge the labelled answers in a language that taught nothing: zh_Hant (the default) or en",
    )
    parser.add_argument(
        "--leave-one-out",
        type=Path,
        metavar="DATASET",
        help="judge each question of a data set by a judge that was not taught it",
    )
    parser.add_argument("--base", type=Path, default=Path("data/base"), help="base model, if it is the judge")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the base model computes")
    args = parser.parse_args()
    console = Console(width=120, markup=False, emoji=False)
    if args.validate:
        for title, pairs in validated(args.validate, args.base, args.device):
            console.print(*validation(title, pairs))
    if args.leave_one_out:
        fitted = fit(read_questions(args.leave_one_out), CORPORA, args.base, args.device)
        console.print(*validation(str(args.leave_one_out), fitted.left_out()))
    if args.file:
        rows = read_rows(args.file)
        classifier = (
            fit(read_questions(args.dataset), CORPORA, args.base, args.device).classifier
            if args.dataset
            else read_classifier(CLASSIFIER, args.base, args.device)
        )
        verdicts = classifier.predict([row["prompt"] for row in rows], [row["response"] for row in rows])
        for row, verdict in zip(rows, verdicts, strict=True):
            print(json.dumps(row | verdict._asdict(), ensure_ascii=False))
    if not (args.validate or args.leave_one_out or args.file):
        parser.error("name a file, or --validate, or --leave-one-out DATASET")
