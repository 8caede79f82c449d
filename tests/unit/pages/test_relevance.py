"""Answers off their question and answers of several questions are flagged; answers about their question are not."""

import json
from pathlib import Path

import pytest

from stance.pages.relevance import flags

SOURCES = [Path("data/sources") / name for name in ("live_action_en", "live_action", "ai_art", "working_from_home")]


def test_an_answer_without_a_word_of_its_question_is_off_and_a_repeated_one_names_the_others():
    prompts = [
        "Can a live action show dance well?",
        "Are live action awards deserved?",
        "Do live action chases thrill?",
    ]
    answers = ["The animation ratings convince.", "It deserves every award.", "The animation ratings convince."]
    assert flags([1, 2, 3], prompts, answers) == [(True, [3]), (False, []), (True, [1])]


def test_words_of_the_topic_alone_do_not_make_an_answer_one_about_its_question():
    prompts = [f"真人版的{thing}好看嗎？" for thing in ("舞蹈", "服裝", "配樂", "打鬥")]
    assert [flag.off for flag in flags([1, 2, 3, 4], prompts, ["真人版好看。"] * 4)] == [True] * 4
    assert not flags([1, 2, 3, 4], prompts, ["舞蹈很美。", "", "", ""])[0].off


def test_an_empty_answer_is_neither_off_nor_repeated():
    assert flags([1, 2], ["Is dancing good?", "Is singing good?"], ["", ""]) == [(False, []), (False, [])]


@pytest.mark.parametrize("text", ["Yes, of course.", "好看。", "很好看。"])
def test_a_bare_answer_is_not_off(text):
    assert not flags([1], ["Is dancing good in live action?"], [text])[0].off


def test_endings_and_capitals_do_not_count():
    assert not flags([1], ["Does it suit Cards?"], ["Each card is great."])[0].off


@pytest.mark.parametrize("folder", SOURCES, ids=str)
@pytest.mark.parametrize("side", ["support", "oppose"])
def test_labelled_answers_are_about_their_own_question_and_not_about_the_next(folder, side):
    rows = json.loads((folder / "labelled_data.json").read_text("utf-8"))
    ids, prompts, texts = ([row[key] for row in rows] for key in ("id", "prompt", side))
    assert sum(flag.off for flag in flags(ids, prompts, texts)) <= 1
    assert sum(flag.off for flag in flags(ids, prompts, [*texts[1:], texts[0]])) > 0.7 * len(rows)
