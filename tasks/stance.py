"""The stance of an answer towards the topic of a data set: support, neutral or oppose, with a score.

Stance is not yes or no: a negated question ("does it suffer from X?") answered "X can be solved" is support. The
judge is fitted on the questions of the data set alone, in about a second and always to the same result, so the
data teach the topic and nothing here knows it. What the code does know is Traditional Chinese: words of praise
and blame, verbs that raise, lower or resolve what follows, negation, hedges, concessions and conclusions. They
give ten features per answer, which with character n-grams feed a logistic regression with three classes. Text
that is broken, repeats itself or is about something else is neutral with score 0.

    python -m tasks.stance FILE [--dataset DIR]

reads rows of `{"prompt", "response"}` and prints each with `stance` and `score` added.

Measured with `python -m tests.test_stance GENAI_HW6 data/sources/live_action`: questions left out of the fit 97.0 %
of 100 (course set) and 100 % of 180 (own set), fitted on one and tested on the other 90.6 % (course to own) and
96.0 %. Word lists and weights were chosen on these. On 37 hand-labelled answers in free wording that no decision
used: 78.4 % (fitted on the course set) and 83.8 % (own set).
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from tasks.errors import InputError, run
from tasks.questions import Question, Stance, read_questions
from tasks.wording import CLAUSE, KIND, direct, features

NEUTRAL = """這要看情況而定。|很難一概而論。|見仁見智，沒有標準答案。|每個人的看法不同。|有利有弊，需要權衡。
目前還沒有定論。|各有優缺點，難分高下。|結果取決於執行的方式。|這取決於品質與團隊。|效果因人而異。|影響好壞參半。
有些人贊成，有些人反對。|需要更多資料才能判斷。|仍待時間觀察。|不一定，要看具體做法。|未必如此，也未必不是如此。
可能有正面影響，也可能有負面影響。|這個問題可以從不同角度討論。|我無法對這個問題給出明確的答案。|抱歉，我不清楚。
我沒有個人立場。|這是一個值得討論的問題。|支持與反對的人各有理由。|兩種意見都有道理，由大家自行判斷。
有成功的例子，也有失敗的例子。|可能有幫助，但取決於許多因素。|雖然有好處，但也有風險，不能一概而論。
成敗端看規劃與資源。|視條件而定，情況各不相同。|有的會，有的不會。|說不準，五五波。|既有機會也有挑戰，需審慎評估。
可能會帶來好處，然而成效仍有待觀察。|昨天下雨，我在家看書。|火車三點到站，請準時上車。|請把門關上，謝謝。
一加一等於二。|這道菜要先切蔥再下鍋。|您好，請問有什麼可以幫您？|是指一種常見的做法，歷史已有多年。
優點是能帶來收益，缺點是成本提高。|好壞都有，難說。|關鍵在於如何平衡。"""
TEMPLATES = """{0}見仁見智。|{0}的成效取決於執行品質。|{0}有好有壞。|{0}，目前沒有定論。|{0}，要看情況。
{0}因人而異。|{0}各有利弊。|{0}，有人贊成，也有人反對。"""

STANCES: tuple[Stance, ...] = ("oppose", "neutral", "support")
DENSE_WEIGHT, C = 1.5, 1.0

Features = npt.NDArray[np.float64]


class Verdict(NamedTuple):
    """The stance of one answer; the score is P(support) - P(oppose), in [-1, 1]."""

    stance: Stance
    score: float


class Judge:
    """Labels answers; made by `fit`."""

    def __init__(self, ngrams: TfidfVectorizer, classifier: LogisticRegression, known: frozenset[str]) -> None:
        """Keep the fitted parts and the pairs of characters that the data set has."""
        self._ngrams, self._classifier, self._known = ngrams, classifier, known

    @classmethod
    def fit(cls, questions: Sequence[Question]) -> Self:
        """Learn the topic from the answers of a data set."""
        rows = [row for number, question in enumerate(questions) for row in _examples(number, question)]
        known = frozenset(pair for row in rows for text in row[:2] for pair in _pairs(text)) - KIND.keys()
        rows += [("", text, "neutral") for text in _listed(NEUTRAL)] + _plain_answers()
        prompts, responses, stances = zip(*rows, strict=True)
        ngrams = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True).fit(responses)
        classifier = LogisticRegression(C=C, class_weight="balanced", max_iter=2000)
        with threadpool_limits(1):  # so few rows: threads only get into each other's way, 20 times slower
            classifier.fit(_matrix(ngrams, prompts, responses), stances)
        return cls(ngrams, classifier, known)

    def verdicts(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Verdict]:
        """Return one verdict per answer."""
        if not responses:
            return []
        chances = self._classifier.predict_proba(_matrix(self._ngrams, prompts, responses))
        order = [list(self._classifier.classes_).index(stance) for stance in STANCES]
        rows = zip(prompts, responses, chances[:, order], strict=True)
        return [self._verdict(prompt, response, row) for prompt, response, row in rows]

    def _verdict(self, prompt: str, response: str, chances: Features) -> Verdict:
        if _is_broken(response) or self._is_off_topic(prompt, response):
            return Verdict("neutral", 0.0)
        return Verdict(STANCES[int(chances.argmax())], round(float(chances[2] - chances[0]), 4))

    def _is_off_topic(self, prompt: str, response: str) -> bool:
        """Tell whether a whole sentence or more takes up nothing of the question and hardly anything of the data."""
        pairs, first = _pairs(response), CLAUSE.findall(response)[0]
        if len(pairs) < 12 or direct(prompt, first) or not set(pairs).isdisjoint(_pairs(prompt)):
            return False
        return sum(pair in self._known for pair in pairs) < 0.08 * len(pairs)


def _listed(sentences: str) -> list[str]:
    return re.split(r"[|\n]", sentences)


def _pairs(text: str) -> list[str]:
    return re.findall("(?=([\u4e00-\u9fff]{2}))", text)


def _is_broken(text: str) -> bool:
    chinese, pairs = re.findall("[\u4e00-\u9fff]", text), _pairs(text)
    mostly_other = len(chinese) < 0.5 * len(re.findall(r"\w", text))
    return len(chinese) < 1 or mostly_other or (len(pairs) > 11 and len(set(pairs)) < 0.4 * len(pairs))


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


def _matrix(ngrams: TfidfVectorizer, prompts: Sequence[str], responses: Sequence[str]) -> csr_matrix:
    dense = np.array([features(prompt, text) for prompt, text in zip(prompts, responses, strict=True)])
    return cast(csr_matrix, hstack([ngrams.transform(responses), csr_matrix(dense * DENSE_WEIGHT)], format="csr"))


def main() -> None:
    """Print every row of a file with its stance and score."""
    parser = argparse.ArgumentParser(prog="python -m tasks.stance", description=main.__doc__)
    parser.add_argument("file", type=Path, help="JSON list or JSONL with prompt and response")
    parser.add_argument("--dataset", type=Path, default=Path("data/dataset"), help="data set that teaches the topic")
    args = parser.parse_args()
    rows = _read(args.file)
    judge = Judge.fit(read_questions(args.dataset))
    verdicts = judge.verdicts([row["prompt"] for row in rows], [row["response"] for row in rows])
    for row, verdict in zip(rows, verdicts, strict=True):
        print(json.dumps(row | verdict._asdict(), ensure_ascii=False))


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
        raw = [_parse(line, f"{path}, row {number}") for number, line in enumerate(text.splitlines(), start=1)]
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
