"""What a language model is told when it compares two answers, or criticises and revises one: Chinese and English."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from stance.language.detect import language_of


class Request(NamedTuple):
    """The wording of the requests to a model, in one language."""

    guideline: str
    """What voters go by if no other sentence is given."""
    task: str
    """The system prompt of a comparison, with a place for the guideline."""
    frame: str
    """A question and two answers, with a place for each."""
    critique: str
    """Asks what is wrong with an answer; places for the guideline, the question and the answer."""
    revision: str
    """Asks for a better answer; places for the guideline, the question, the answer and the critique."""


ENGLISH = Request(
    guideline="The better answer is the one that answers the question more clearly and convincingly.",
    task=(
        "You will read a question and two answers, A and B. {guideline} Reply with one letter only: A if answer A is "
        "better, B if answer B is better."
    ),
    frame="Question: {question}\nA: {first}\nB: {second}",
    critique=("{guideline}\nQuestion: {question}\nAnswer: {answer}\nName its weaknesses in one or two sentences."),
    revision=(
        "{guideline}\nQuestion: {question}\nAnswer: {answer}\nCritique: {critique}\nWrite a better answer to the "
        "question. It is about as long as the first one. Reply with the answer only."
    ),
)
CHINESE = Request(
    guideline="較好的回答，是更清楚、更有說服力地回答問題的那一個。",
    task=("你會讀到一個問題和 A、B 兩個回答。{guideline}只回覆一個字母：A 較好就回覆 A，B 較好就回覆 B。"),
    frame="問題：{question}\nA：{first}\nB：{second}",
    critique="{guideline}\n問題：{question}\n回答：{answer}\n請用一兩句話指出這個回答的缺點。",
    revision=(
        "{guideline}\n問題：{question}\n回答：{answer}\n缺點：{critique}\n請為這個問題寫一個更好的回答，"
        "長度與原來的回答相近。只回覆新的回答。"
    ),
)
LETTER = re.compile(r"(?<![A-Za-z])([AB])(?![A-Za-z])")


def request_for(questions: Iterable[str]) -> Request:
    """Return the wording in the language of the questions: Chinese, or English for every other language."""
    return CHINESE if language_of(questions) == "zh_Hant" else ENGLISH


def letter(reply: str) -> str | None:
    """Return the letter that a reply names, A or B; None if it names none or both."""
    letters = set(LETTER.findall(reply))
    return letters.pop() if len(letters) == 1 else None
