"""A stance classifier that is taught in a moment, and one that is written and read again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from stance.data.metrics import ACCURACY
from stance.data.questions import read_questions
from stance.evaluation.accuracy import accuracy_of
from stance.evaluation.classifier import StanceClassifier, labelled_answers
from stance.evaluation.fitted import judged

Judge = TypeVar("Judge")


def write_classifier(dataset: Path, folder: Path) -> None:
    """Write what the stage `classifier` writes, taught by a Chinese data set alone and measured on what taught it."""
    questions = read_questions(dataset)
    judge, rows = StanceClassifier.fit(questions, []), labelled_answers(questions)
    judge.write(folder)
    found = [(row.stance, verdict.stance) for row, verdict in zip(rows, judged(judge, rows), strict=True)]
    accuracy_of("wording", None, found).write(folder / ACCURACY)


def kept(judge: Any, read: Callable[[Path], Judge], folder: Path) -> Judge:
    """Write a classifier and return the one that is read; both give the same bytes."""
    judge.write(folder / "once")
    again = read(folder / "once")
    for name, written in (("twice", judge), ("again", again)):
        written.write(folder / name)
        assert bytes_in(folder / name) == bytes_in(folder / "once")
    return again


def bytes_in(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
