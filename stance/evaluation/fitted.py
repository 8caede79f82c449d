"""The stance classifier of a data set, and how often it is right.

In: the questions of a data set, labelled answers about other topics, and the base model. Out: the classifier that suits
the language of the data set. Chinese is judged by its wording (`stance/evaluation/classifier.py`), every other language
by the hidden states of the base model (`stance/evaluation/hidden_state.py`). docs/judge.md has the measurements.

Teaching takes seconds to a minute. So the stage `classifier` does it once, and all others read what it has written.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from stance.data.answers import Answer
from stance.data.metrics import ClassifierAccuracy
from stance.data.questions import Question
from stance.evaluation.accuracy import accuracy_of
from stance.evaluation.classifier import (
    FACTS,
    Labelled,
    Lessons,
    StanceClassifier,
    Verdict,
    labelled_answers,
    read_labelled,
)
from stance.evaluation.hidden_state import HiddenStateClassifier, ModelReader
from stance.language.detect import Name, language_of
from stance.machine.files import read_output
from stance.models.base import locate

FOLDS = 3
"""Folds of the cross-validation of the classifier by wording, of which each takes seconds."""


class Classifier(Protocol):
    """Judges answers: `StanceClassifier` or `HiddenStateClassifier`."""

    def predict(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Verdict]:
        """Return one verdict per answer."""
        ...

    def is_broken(self, text: str) -> bool:
        """Is a text no sentence in the language that is judged, or does it repeat itself?"""
        ...


LeftOut = list[tuple[Labelled, Verdict]]


class Fitted(NamedTuple):
    """A classifier that was taught a data set."""

    classifier: StanceClassifier | HiddenStateClassifier
    layer: int | None
    """The layer of the base model that it reads; None for the classifier by wording."""
    left_out: Callable[[], LeftOut]
    """Judges the data set's answers, each by a classifier that was not taught its question; may take some minutes."""
    other_topics: LeftOut
    """Answers about other topics with verdicts of a classifier that was not taught the topic; empty if not measured."""

    def accuracy(self) -> ClassifierAccuracy:
        """Return how often the classifier is right on questions that it was not taught."""
        own, others = (
            [(row.stance, verdict.stance) for row, verdict in group] for group in (self.left_out(), self.other_topics)
        )
        return accuracy_of("wording" if self.layer is None else "hidden_state", self.layer, own, others)


def fit(questions: Sequence[Question], corpora: Path, base: Path, device: str) -> Fitted:
    """Return the classifier of a data set.

    Args:
        questions: The training questions of the data set.
        corpora: Folder with labelled answers about other topics, one file per language, `zh_Hant.jsonl`. A language
            without a file is taught by the data set alone.
        base: `data/base`; read only if the data set is not in Chinese.
        device: `cpu` or `cuda`, where the base model computes.

    Raises:
        InputError: A file is missing or damaged, or the base model is missing.
    """
    spoken = data_language(questions)
    corpus = read_corpus(corpora, spoken)
    if spoken == "zh_Hant":
        return _fit_wording(questions, corpus)
    rows = labelled_answers(questions)
    reader = ModelReader(locate(base), device)
    probe, verdicts = HiddenStateClassifier.fit(reader, rows, corpus)
    left_out = list(zip([*rows, *corpus], verdicts, strict=True))
    return Fitted(probe, reader.layers[probe.place], lambda: left_out[: len(rows)], left_out[len(rows) :])


def read_classifier(folder: Path, base: Path, device: str) -> Classifier:
    """Return the classifier that the stage `classifier` has taught.

    Args:
        folder: `data/classifier`.
        base: `data/base`; read only if the classifier reads its hidden states.
        device: `cpu` or `cuda`, where the base model computes.

    Raises:
        InputError: The classifier or the base model is missing.
    """
    if json.loads(read_output(folder / FACTS))["reads"] == "wording":
        return StanceClassifier.read(folder)
    return HiddenStateClassifier.read(folder, ModelReader(locate(base), device))


def data_language(questions: Sequence[Question]) -> Name:
    """Return the language of a data set, by its answers."""
    return language_of(text for row in questions for text in (row.support, row.oppose))


def read_corpus(corpora: Path, language: Name) -> list[Labelled]:
    """Return the labelled answers about other topics in a language, perhaps none."""
    path = corpora / f"{language}.jsonl"
    return read_labelled(path) if path.is_file() or language == "zh_Hant" else []


def _fit_wording(questions: Sequence[Question], corpus: Sequence[Labelled]) -> Fitted:
    """Return the classifier by wording. Those that judge the left-out answers are fitted only if somebody asks."""
    folds = range(min(FOLDS, len(questions)))
    taught = [[row for number, row in enumerate(questions) if number % FOLDS != fold] for fold in folds]
    lessons = Lessons.read([questions, *taught], corpus)

    def left_out() -> LeftOut:
        pairs: LeftOut = []
        for fold in folds:
            rows = labelled_answers(questions[fold::FOLDS])
            pairs += zip(rows, judged(StanceClassifier.learn(lessons, fold + 1), rows), strict=True)
        return pairs

    return Fitted(StanceClassifier.learn(lessons, 0), None, left_out, [])


def judged(classifier: Classifier, rows: Sequence[Labelled] | Sequence[Answer]) -> list[Verdict]:
    """Return the classifier's verdict on every answer."""
    return classifier.predict([row.prompt for row in rows], [row.response for row in rows])


def neutral_answers(classifier: Classifier, rows: Sequence[Answer]) -> dict[int, str]:
    """Return the base model's own answers that take no stance and are not broken, by the id of the question."""
    return {
        row.id: row.response
        for row, verdict in zip(rows, judged(classifier, rows), strict=True)
        if verdict.stance == "neutral" and row.finish_reason == "stop" and not classifier.is_broken(row.response)
    }
