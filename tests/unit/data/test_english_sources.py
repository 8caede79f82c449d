"""The English data sets keep the rules that they were written by."""

from pathlib import Path

import pytest

from stance.data.questions import LABELLED, TEST, read_probes, read_prompts, read_questions
from stance.evaluation.classifier import read_labelled

SOURCES = Path("data/sources")
TOPICS = ("live_action_en", "working_from_home")
SIDES = ("support", "oppose", "neutral")

each_topic = pytest.mark.parametrize("topic", TOPICS)


@each_topic
def test_there_are_60_questions_20_test_prompts_and_80_probes(topic):
    folder = SOURCES / topic
    assert {path.name for path in folder.iterdir()} == {LABELLED, TEST}
    assert len(read_questions(folder)) == 60
    assert len(read_prompts(folder)) == 20
    assert len(read_probes(SOURCES / f"probes/{topic}.json")) == 80


@each_topic
def test_every_answer_is_a_sentence_below_the_limit_of_20_words(topic):
    answers = [getattr(row, side) for row in read_questions(SOURCES / topic) for side in SIDES]
    assert all(8 <= len(answer.split()) < 20 and answer[-1] in ".!?" for answer in answers)


@each_topic
def test_no_answer_opens_with_yes_or_no_and_no_opening_tells_the_side(topic):
    rows = read_questions(SOURCES / topic)
    openings = {side: [getattr(row, side).split()[0].lower().strip(",.") for row in rows] for side in SIDES}
    words = {word for side in SIDES for word in openings[side]}
    assert not {"yes", "no"} & words
    assert all(abs(openings["support"].count(word) - openings["oppose"].count(word)) <= 3 for word in words)


@each_topic
def test_the_length_of_an_answer_does_not_tell_the_side(topic):
    rows = read_questions(SOURCES / topic)
    longer = sum(len(row.support) > len(row.oppose) for row in rows)
    words = {side: sum(len(getattr(row, side).split()) for row in rows) for side in ("support", "oppose")}
    assert 0.4 * len(rows) <= longer <= 0.6 * len(rows)
    assert words["support"] == pytest.approx(words["oppose"], rel=0.03)


@each_topic
def test_labelled_answers_of_every_stance_teach_nothing(topic):
    rows = read_labelled(SOURCES / f"stance/validation/en/{topic}.jsonl")
    questions = read_questions(SOURCES / topic)
    taught = {getattr(row, side) for row in questions for side in SIDES}
    assert len(rows) >= 150
    assert all(sum(row.stance == side for row in rows) >= 50 for side in SIDES)
    assert not taught & {row.response for row in rows}
    assert not {row.prompt for row in questions} & {row.prompt for row in rows}
