"""The stance of a Chinese answer towards the topic of a data set: support, neutral or oppose, with a score.

Stance is not yes or no: a negated question ("does it suffer from X?") answered "X can be solved" is support. The data
set's own questions teach the topic, and some thousand labelled answers about other topics, `data/sources/stance`, teach
how support, opposition and neutrality sound; no word here is of any topic. Character n-grams and ten figures of the
wording (`stance/language/zh_hant.py`) feed a logistic regression, and the n-grams complement naive Bayes; both are
fitted in seconds, always to the same result, and their log-probabilities are added up. Text that is broken or repeats
itself is neutral with score 0. A classifier is kept as n-grams in a JSON file and numbers in a safetensors file, and
reads an answer as the one that was written does, to the last bit.

    python -m stance label FILE [--dataset DIR]     # rows of {"prompt", "response"}, each with stance and score
    python -m stance label --validate [LANGUAGE]    # labelled answers that taught nothing, right or wrong
    python -m stance label --leave-one-out DIR      # each question of a data set by a judge that has not seen it
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.numpy import load_file, save
from scipy.sparse import csr_matrix, hstack
from scipy.special import softmax
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import ComplementNB
from threadpoolctl import threadpool_limits

from stance.data.questions import Question, Stance
from stance.errors import InputError
from stance.language.detect import is_chinese
from stance.language.zh_hant import features, placed
from stance.machine.files import read_json, read_jsonl, write_json

TEMPLATES = """{0}見仁見智。|{0}的成效取決於執行品質。|{0}有好有壞。|{0}，目前沒有定論。|{0}，要看情況。
{0}因人而異。|{0}各有利弊。|{0}，有人贊成，也有人反對。"""
STANCES: tuple[Stance, ...] = ("oppose", "neutral", "support")
C, ALPHA, BAYES = 8.0, 0.1, 0.2
"""Inverse regularisation of the regression, smoothing of naive Bayes, and its part in the sum of the log-probabilities;
these and the n-grams were chosen on topics left out of the corpus and on left-out questions of the data sets."""
FACTS, NUMBERS = "classifier.json", "classifier.safetensors"
"""The files that a classifier is kept in."""
Features = npt.NDArray[np.float64]
Example = tuple[str, str, Stance]
"""A question, an answer and its stance."""


class Verdict(NamedTuple):
    """The stance of one answer; the score is P(support) - P(oppose), in [-1, 1]."""

    stance: Stance
    score: float


class Labelled(BaseModel):
    """An answer whose stance a person has named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str
    prompt: str
    response: str
    stance: Stance
    kind: str
    """What is special about it: blunt, hedged, negated, broken, ..."""


class StanceClassifier:
    """Judges Chinese answers by their wording; made by `fit` or `read`."""

    def __init__(self, words: "Words", linear: LogisticRegression, bayes: ComplementNB) -> None:
        """Keep the fitted parts."""
        self._words, self._linear, self._bayes = words, linear, bayes

    @classmethod
    def fit(cls, questions: Sequence[Question], corpus: Sequence[Labelled]) -> Self:
        """Learn the topic from the answers of a data set, and the language from answers about other topics."""
        return cls.learn(Lessons.read([questions], corpus), 0)

    @classmethod
    def learn(cls, lessons: "Lessons", part: int) -> Self:
        """Learn one part of the lessons."""
        stances, counts, figures = lessons.part(part)
        words = Words(*(Grams.fit(*pair) for pair in zip(lessons.counters, counts, strict=True)))
        ngrams = words.weighed(counts)
        linear = LogisticRegression(C=C, class_weight="balanced", max_iter=2000, tol=1e-3)
        with threadpool_limits(1):  # so few rows: threads only get into each other's way, 20 times slower
            linear.fit(hstack([ngrams, csr_matrix(figures)], format="csr"), stances)
        return cls(words, linear, ComplementNB(alpha=ALPHA).fit(ngrams, stances))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the classifier that `write` has written to a folder."""
        ngrams, numbers = read_json(folder / FACTS)["ngrams"], load_file(folder / NUMBERS)
        weights = (numbers["anywhere"], numbers["placed"])
        words = Words(*(Grams.of(*parts) for parts in zip(counters(*ngrams), weights, strict=True)))
        coefficients, intercept, classes = numbers["coefficients"], numbers["intercept"], np.array(sorted(STANCES))
        linear = restored(LogisticRegression(), coef_=coefficients, intercept_=intercept, classes_=classes)
        return cls(words, linear, restored(ComplementNB(), feature_log_prob_=numbers["bayes"], classes_=classes))

    def write(self, folder: Path) -> None:
        """Write the classifier to a folder. The same classifier always gives the same bytes."""
        write_json(folder / FACTS, {"reads": "wording", "ngrams": [grams.ngrams() for grams in self._words]})
        anywhere, placed = (grams.weights.idf_ for grams in self._words)
        numbers = {"coefficients": self._linear.coef_, "intercept": self._linear.intercept_}
        numbers |= {"bayes": self._bayes.feature_log_prob_, "anywhere": anywhere, "placed": placed}
        write_numbers(folder / NUMBERS, numbers)

    def predict(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Verdict]:
        """Return one verdict per answer."""
        if not responses:
            return []
        chances = self.chances(prompts, responses)
        return [self._verdict(response, row) for response, row in zip(responses, chances, strict=True)]

    def chances(self, prompts: Sequence[str], responses: Sequence[str]) -> Features:
        """Return the probability of each of `STANCES`. Shape (answers, stances)."""
        ngrams = self._words.ngrams(prompts, responses)
        figures = csr_matrix(_figures(prompts, responses))
        both = self._linear.predict_log_proba(hstack([ngrams, figures], format="csr"))
        both += BAYES * self._bayes.predict_log_proba(ngrams)
        order = [list(self._linear.classes_).index(stance) for stance in STANCES]
        return cast(Features, softmax(both, axis=1)[:, order])

    @staticmethod
    def is_broken(text: str) -> bool:
        """Is a text hardly Chinese, or does it repeat itself?"""
        pairs = _pairs(text)
        return not is_chinese(text) or (len(pairs) > 11 and len(set(pairs)) < 0.4 * len(pairs))

    def _verdict(self, response: str, chances: Features) -> Verdict:
        if self.is_broken(response):
            return Verdict("neutral", 0.0)
        return Verdict(STANCES[int(chances.argmax())], round(float(chances[2] - chances[0]), 4))


class Lessons(NamedTuple):
    """Examples for several classifiers, which learn from the same corpus: its texts are read only once, for seconds."""

    counters: tuple[CountVectorizer, CountVectorizer]
    counts: tuple[csr_matrix, csr_matrix]
    """How often each n-gram is in each example, anywhere and in the first and last clause."""
    figures: Features
    stances: list[Stance]
    parts: list[list[int]]
    """The places of the examples that each classifier learns from."""

    @classmethod
    def read(cls, parts: Sequence[Sequence[Question]], corpus: Sequence[Labelled]) -> Self:
        """Read the answers of each part of a data set, and those of the corpus, which belong to every part."""
        rows: list[Example] = []
        own: list[list[int]] = []
        for questions in parts:
            examples = [row for number, question in enumerate(questions) for row in _examples(number, question)]
            own.append(list(range(len(rows), len(rows) + len(examples))))
            rows += examples
        common = [(row.prompt, row.response, row.stance) for row in corpus] + _plain_answers()
        shared = list(range(len(rows), len(rows) + len(common)))
        prompts, responses, stances = zip(*rows, *common, strict=True)
        anywhere, clauses = counters()
        counts = anywhere.fit_transform(responses), clauses.fit_transform(list(zip(prompts, responses, strict=True)))
        figures = _figures(prompts, responses)
        return cls((anywhere, clauses), counts, figures, list(stances), [[*places, *shared] for places in own])

    def part(self, number: int) -> tuple[list[Stance], list[csr_matrix], Features]:
        """Return the stances, the counts and the figures of the examples of a part."""
        rows = self.parts[number]
        return [self.stances[row] for row in rows], [counts[rows] for counts in self.counts], self.figures[rows]


class Grams(NamedTuple):
    """Weighs the n-grams that are in two examples or more."""

    counter: CountVectorizer
    kept: npt.NDArray[np.intp]
    weights: TfidfTransformer

    @classmethod
    def fit(cls, counter: CountVectorizer, counts: csr_matrix) -> Self:
        """Learn how common each n-gram is."""
        kept = np.flatnonzero(np.bincount(counts.indices, minlength=counts.shape[1]) >= 2)
        return cls(counter, kept, TfidfTransformer(sublinear_tf=True).fit(counts[:, kept]))

    @classmethod
    def of(cls, counter: CountVectorizer, weights: Features) -> Self:
        """Return a reader of the n-grams that the counter knows, with their weights."""
        return cls(counter, np.arange(len(weights)), restored(TfidfTransformer(sublinear_tf=True), idf_=weights))

    def ngrams(self) -> list[str]:
        """Return the n-grams in the order of their weights."""
        return cast(list[str], self.counter.get_feature_names_out()[self.kept].tolist())

    def weighed(self, counts: csr_matrix) -> csr_matrix:
        """Return the weights of counted n-grams, none of them negative."""
        return self.weights.transform(counts[:, self.kept])


class Words(NamedTuple):
    """Weighs the n-grams of answers: anywhere, and in the first and last clause."""

    anywhere: Grams
    placed: Grams

    def ngrams(self, prompts: Sequence[str], responses: Sequence[str]) -> csr_matrix:
        """Return the weights of the n-grams of answers."""
        rows = list(zip(prompts, responses, strict=True))
        return self.weighed([self.anywhere.counter.transform(responses), self.placed.counter.transform(rows)])

    def weighed(self, counts: Sequence[csr_matrix]) -> csr_matrix:
        """Return the weights of n-grams that are counted already."""
        return hstack([grams.weighed(part) for grams, part in zip(self, counts, strict=True)], format="csr")


def counters(
    anywhere: Sequence[str] | None = None, placed: Sequence[str] | None = None
) -> tuple[CountVectorizer, CountVectorizer]:
    """Return what counts n-grams anywhere, and in the first and last clause: those named, or all that a fit finds."""
    return (
        CountVectorizer(analyzer="char", ngram_range=(1, 3), dtype=np.float64, vocabulary=anywhere),
        CountVectorizer(analyzer=_placed, dtype=np.float64, vocabulary=placed),
    )


Estimator = TypeVar("Estimator")


def restored(estimator: Estimator, **attributes: Any) -> Estimator:
    """Return an estimator of scikit-learn with the attributes that a fit gave it."""
    vars(estimator).update(attributes)
    return estimator


def write_numbers(path: Path, numbers: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays to a safetensors file."""
    path.write_bytes(save({name: np.ascontiguousarray(array) for name, array in numbers.items()}))


def _figures(prompts: Sequence[str], responses: Sequence[str]) -> Features:
    """Return the figures of the wording. Shape (answers, figures)."""
    return np.array([features(prompt, text) for prompt, text in zip(prompts, responses, strict=True)])


def _placed(row: tuple[str, str]) -> list[str]:
    return placed(*row)


def _listed(sentences: str) -> list[str]:
    return re.split(r"[|\n]", sentences)


def _pairs(text: str) -> list[str]:
    return re.findall("(?=([\u4e00-\u9fff]{2}))", text)


def _examples(number: int, question: Question) -> list[Example]:
    body = question.prompt.rstrip("？?嗎呢")
    hedges = _listed(TEMPLATES)
    hedged = hedges[number % len(hedges)].format(body)
    rows: list[Example] = [
        (question.prompt, question.support, "support"),
        (question.prompt, question.oppose, "oppose"),
        (question.prompt, hedged, "neutral"),
    ]
    if question.neutral:
        rows.append((question.prompt, question.neutral, "neutral"))
    return rows


def _plain_answers() -> list[Example]:
    """Return yes and no to a question for an advantage and to one for a drawback."""
    rows: list[Example] = []
    for prompt, yes, no in (("是否有好處？", "support", "oppose"), ("是否有壞處？", "oppose", "support")):
        rows += [(prompt, text, cast(Stance, yes)) for text in ("是的。", "會。", "當然。", "確實，沒錯。")]
        rows += [(prompt, text, cast(Stance, no)) for text in ("不是。", "不會。", "沒有。", "不，並非如此。")]
    return rows


def read_labelled(path: Path) -> list[Labelled]:
    """Return the answers in a file of JSON lines.

    Raises:
        InputError: The file is missing, or a row is not as `Labelled` says; names it.
    """
    try:
        return [Labelled.model_validate(row) for row in read_jsonl(path)]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; restore it, `git checkout {path}`") from None
    except ValidationError as error:
        raise InputError(
            f"{path}: {error.errors()[0]['msg']}; a row needs {', '.join(Labelled.model_fields)}"
        ) from None


def labelled_answers(questions: Sequence[Question]) -> list[Labelled]:
    """Return the answers of a data set, each with its stance; `neutral` is absent where a question has none."""
    return [
        Labelled(topic="", prompt=question.prompt, response=text, stance=stance, kind="data set")
        for question in questions
        for stance in STANCES
        if (text := getattr(question, stance))
    ]
