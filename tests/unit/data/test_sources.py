"""Our own question set keeps its rules: what it teaches is a stance, not a length, an opening or a negation."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from stance.data.questions import LABELLED, read_prompts, read_questions

FOLDER = Path("data/sources/live_action")
QUESTIONS = read_questions(FOLDER)
PROMPTS = [row.prompt for row in read_prompts(FOLDER)]
STANCES = ("support", "oppose", "neutral")
ANSWERS = {stance: [str(getattr(question, stance)) for question in QUESTIONS] for stance in STANCES}
ASKED = [question.prompt for question in QUESTIONS]
EVERY_TEXT = [*ASKED, *PROMPTS, *(answer for answers in ANSWERS.values() for answer in answers)]

SIMPLIFIED = (
    "个体气么万与丑这们说时会来对为动国过发实现观众电剧画经让变许还认识质应该讲员专业术艺连书乐广传优势热爱节创团视听觉"
)


def bigrams(text: str) -> set[str]:
    return {text[start : start + 2] for start in range(len(text) - 1)}


def test_there_are_sixty_questions_and_twenty_test_prompts():
    assert (len(QUESTIONS), len(PROMPTS)) == (60, 20)
    assert [question.id for question in QUESTIONS] == list(range(1, 61))
    assert all(question.neutral for question in QUESTIONS)


def test_no_prompt_and_no_answer_stands_twice():
    assert len(set(ASKED + PROMPTS)) == 80
    assert len({answer for answers in ANSWERS.values() for answer in answers}) == 180


def test_every_answer_is_a_sentence_of_fewer_than_20_characters():
    answers = [answer for answers in ANSWERS.values() for answer in answers]
    assert [answer for answer in answers if len(answer) >= 20 or not answer.endswith("。")] == []
    assert [prompt for prompt in ASKED + PROMPTS if not prompt.endswith("？")] == []


def test_every_text_is_traditional_chinese():
    text = "".join(EVERY_TEXT)
    assert re.findall(r"[A-Za-zＡ-Ｚａ-ｚ\s]", text) == []
    assert set(text) & set(SIMPLIFIED) == set()
    assert text.encode("big5")


def test_the_three_answers_to_a_question_begin_alike():
    assert [q.id for q in QUESTIONS if len({str(getattr(q, stance))[:2] for stance in STANCES}) > 1] == []


@pytest.mark.parametrize("length", [2, 4])
def test_an_opening_does_not_tell_support_from_oppose(length):
    support, oppose = (Counter(answer[:length] for answer in ANSWERS[stance]) for stance in ("support", "oppose"))
    assert max(abs(support[opening] - oppose[opening]) for opening in support | oppose) <= 1
    guessed_right = sum(max(support[opening], oppose[opening]) for opening in support | oppose)
    assert guessed_right / 120 <= 0.55


def test_the_stances_are_equally_long():
    means = [sum(map(len, answers)) / len(answers) for answers in ANSWERS.values()]
    assert max(means) - min(means) <= 1


def test_no_question_is_negated():
    plain = [re.sub("能不能|會不會|是不是|好不好", "", prompt) for prompt in ASKED + PROMPTS]
    assert [
        prompt for prompt in plain if re.search("[不沒無未非別勿莫]|難以|難道|缺乏|缺少|避免|拒絕|反對", prompt)
    ] == []


def test_no_test_prompt_paraphrases_a_question():
    overlaps = [
        (len(bigrams(test) & bigrams(train)) / len(bigrams(test) | bigrams(train)), test, train)
        for test in PROMPTS
        for train in ASKED
    ]
    assert [overlap for overlap in overlaps if overlap[0] > 0.5] == []


def test_the_file_is_readable_by_people():
    text = (FOLDER / LABELLED).read_text(encoding="utf-8")
    assert "\\u" not in text
    assert len(json.loads(text)) == 60
