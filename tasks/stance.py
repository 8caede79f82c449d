"""The stance of an answer towards the topic of a data set: support, neutral or oppose, with a score.

Stance is not yes or no: a negated question ("does it suffer from X?") answered "X can be solved" is support. The data
set's own questions teach the topic, and some thousand labelled answers about other topics, `data/sources/stance`, teach
how support, opposition and neutrality sound; no word here is of any topic. Character n-grams and ten figures of
the wording (`tasks/wording.py`) feed a logistic regression, and the n-grams complement naive Bayes; both are fitted in
seconds, always to the same result, and their log-probabilities are added up. Text that is broken or repeats itself is
neutral with score 0.

    python -m tasks.stance FILE [--dataset DIR]     # rows of {"prompt", "response"}, each with stance and score
    python -m tasks.stance --validate               # labelled answers that taught nothing, right or wrong
    python -m tasks.stance --leave-one-out DIR      # each question of a data set by a judge that has not seen it
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_matrix, hstack
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import ComplementNB
from threadpoolctl import threadpool_limits

from tasks.errors import InputError, run
from tasks.jsonfile import read_jsonl
from tasks.questions import Question, Stance, read_questions
from tasks.wording import features, is_chinese, placed

TEMPLATES = """{0}見仁見智。|{0}的成效取決於執行品質。|{0}有好有壞。|{0}，目前沒有定論。|{0}，要看情況。
{0}因人而異。|{0}各有利弊。|{0}，有人贊成，也有人反對。"""

SOURCES = Path("data/sources")
CORPUS, VALIDATION = SOURCES / "stance/corpus.jsonl", SOURCES / "stance/validation"
WORST = 12
"""Cases that are shown."""
STANCES: tuple[Stance, ...] = ("oppose", "neutral", "support")
C, ALPHA, BAYES = 8.0, 0.1, 0.2
"""Inverse regularisation of the regression, smoothing of naive Bayes, and its part in the sum of the log-probabilities;
these and the n-grams were chosen on topics left out of the corpus and on left-out questions of the data sets."""

Features = npt.NDArray[np.float64]


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


class Judge:
    """Labels answers; made by `fit`."""

    def __init__(self, words: "Words", linear: LogisticRegression, bayes: ComplementNB) -> None:
        """Keep the fitted parts."""
        self._words, self._linear, self._bayes = words, linear, bayes

    @classmethod
    def fit(cls, questions: Sequence[Question], corpus: Sequence[Labelled]) -> Self:
        """Learn the topic from the answers of a data set, and the language from answers about other topics."""
        rows = [row for number, question in enumerate(questions) for row in _examples(number, question)]
        rows += [(row.prompt, row.response, row.stance) for row in corpus] + _plain_answers()
        prompts, responses, stances = zip(*rows, strict=True)
        words = Words.fit(prompts, responses)
        linear = LogisticRegression(C=C, class_weight="balanced", max_iter=2000, tol=1e-3)
        with threadpool_limits(1):  # so few rows: threads only get into each other's way, 20 times slower
            linear.fit(words.with_figures(prompts, responses), stances)
        return cls(words, linear, ComplementNB(alpha=ALPHA).fit(words.ngrams(prompts, responses), stances))

    def verdicts(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Verdict]:
        """Return one verdict per answer."""
        if not responses:
            return []
        both = self._linear.predict_log_proba(self._words.with_figures(prompts, responses))
        both += BAYES * self._bayes.predict_log_proba(self._words.ngrams(prompts, responses))
        order = [list(self._linear.classes_).index(stance) for stance in STANCES]
        chances = softmax(both, axis=1)[:, order]
        return [self._verdict(response, row) for response, row in zip(responses, chances, strict=True)]

    def _verdict(self, response: str, chances: Features) -> Verdict:
        if is_broken(response):
            return Verdict("neutral", 0.0)
        return Verdict(STANCES[int(chances.argmax())], round(float(chances[2] - chances[0]), 4))


class Words(NamedTuple):
    """Weighs the n-grams of answers: anywhere, and in the first and last clause."""

    anywhere: TfidfVectorizer
    placed: TfidfVectorizer

    @classmethod
    def fit(cls, prompts: Sequence[str], responses: Sequence[str]) -> Self:
        """Learn how common each n-gram is."""
        anywhere = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True)
        placed_ones = TfidfVectorizer(analyzer=_placed, min_df=2, sublinear_tf=True)
        return cls(anywhere.fit(responses), placed_ones.fit(list(zip(prompts, responses, strict=True))))

    def ngrams(self, prompts: Sequence[str], responses: Sequence[str]) -> csr_matrix:
        """Return the weights of the n-grams, none of them negative."""
        rows = list(zip(prompts, responses, strict=True))
        return hstack([self.anywhere.transform(responses), self.placed.transform(rows)], format="csr")

    def with_figures(self, prompts: Sequence[str], responses: Sequence[str]) -> csr_matrix:
        """Return the same with the figures of the wording."""
        rows = [features(prompt, text) for prompt, text in zip(prompts, responses, strict=True)]
        return hstack([self.ngrams(prompts, responses), csr_matrix(np.array(rows))], format="csr")


def _placed(row: tuple[str, str]) -> list[str]:
    return placed(*row)


def _listed(sentences: str) -> list[str]:
    return re.split(r"[|\n]", sentences)


def _pairs(text: str) -> list[str]:
    return re.findall("(?=([\u4e00-\u9fff]{2}))", text)


def is_broken(text: str) -> bool:
    """Is a text hardly Chinese, or does it repeat itself?"""
    pairs = _pairs(text)
    return not is_chinese(text) or (len(pairs) > 11 and len(set(pairs)) < 0.4 * len(pairs))


def _examples(number: int, question: Question) -> list[tuple[str, str, Stance]]:
    body = question.prompt.rstrip("？?嗎呢")
    hedges = _listed(TEMPLATES)
    hedged = hedges[number % len(hedges)].format(body)
    rows: list[tuple[str, str, Stance]] = [
        (question.prompt, question.support, "support"),
        (question.prompt, question.oppose, "oppose"),
        (question.prompt, hedged, "neutral"),
    ]
    if question.neutral:
        rows.append((question.prompt, question.neutral, "neutral"))
    return rows


def _plain_answers() -> list[tuple[str, str, Stance]]:
    """Return yes and no to a question for an advantage and to one for a drawback."""
    rows: list[tuple[str, str, Stance]] = []
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


def main() -> None:
    """Print every row of a file with its stance and score, or how often the judge is right."""
    parser = argparse.ArgumentParser(prog="python -m tasks.stance", description=main.__doc__)
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
            Console(width=120).print(*validation(path.stem, judged(judge, read_labelled(path))))
    if args.leave_one_out:
        Console(width=120).print(
            *validation(str(args.leave_one_out), left_out(read_questions(args.leave_one_out), corpus))
        )
    if args.file:
        rows = _read(args.file)
        judge = Judge.fit(read_questions(args.dataset), corpus)
        verdicts = judge.verdicts([row["prompt"] for row in rows], [row["response"] for row in rows])
        for row, verdict in zip(rows, verdicts, strict=True):
            print(json.dumps(row | verdict._asdict(), ensure_ascii=False))
    if not (args.validate or args.leave_one_out or args.file):
        parser.error("name a file, or --validate, or --leave-one-out DATASET")


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a JSON list or JSONL of prompt and response") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
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


if __name__ == "__main__":
    run(main)
