"""What the linter says about the English data sets, and what it finds once something is planted in them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stance.data.lint import lint
from stance.data.pairs import pair
from stance.data.questions import Prompt, Question, read_prompts, read_questions
from stance.data.records import LintWarning
from stance.language.messages import sentence

SYSTEM = "Reply in fewer than 20 words."
TOPICS = ("live_action_en", "working_from_home")
each_topic = pytest.mark.parametrize("topic", TOPICS)
Change = Callable[[Question], dict[str, str]]


def warnings(
    topic: str, number: int, change: Change = lambda row: {}, prompts: tuple[str, ...] = ()
) -> list[LintWarning]:
    """Lint the first questions of a topic, changed, in alternating directions."""
    folder = Path("data/sources") / topic
    rows = [row.model_copy(update=change(row)) for row in read_questions(folder)[:number]]
    asked = [*read_prompts(folder), *(Prompt(id=1000 + n, prompt=text) for n, text in enumerate(prompts))]
    pairs = [pair(row, None, support=place % 2 == 0, system_prompt=SYSTEM) for place, row in enumerate(rows)]
    return lint(pairs, asked, SYSTEM)


@each_topic
@pytest.mark.parametrize("number", [8, 16, 40, 60])
def test_nothing_is_wrong_with_the_data_sets_as_they_are(topic, number):
    assert [sentence(row.message) for row in warnings(topic, number)] == []


@each_topic
def test_support_answers_that_all_begin_with_yes_are_found(topic):
    found = warnings(topic, 60, lambda row: {"support": f"Yes, {row.support[0].lower()}{row.support[1:]}"})
    texts = [sentence(row.message) for row in found]
    assert "60 of 60 support answers begin with yes, and 0 of the others" in texts
    assert "60 of 60 support answers hold yes" in texts


@each_topic
def test_an_opening_of_eight_answers_of_one_side_is_found(topic):
    found = warnings(topic, 60, lambda row: {"oppose": f"Sadly, {row.oppose}"} if row.id <= 8 else {})
    [opening] = [row for row in found if row.check == "opening"]
    assert opening.rows == [*range(1, 9)]


@each_topic
def test_an_opening_of_both_sides_tells_nothing(topic):
    found = warnings(topic, 60, lambda row: {"support": f"Well, {row.support}", "oppose": f"Well, {row.oppose}"})
    assert not [row for row in found if row.check in ("opening", "wording")]


@each_topic
def test_a_set_of_negated_questions_is_found(topic):
    changed = {"live_action_en": "Does live action ruin", "working_from_home": "Does working from home spoil"}[topic]
    found = warnings(topic, 16, lambda row: {"prompt": f"{changed} {row.prompt.split(None, 2)[-1]}"})
    [negated] = [row for row in found if row.check == "negated"]
    assert len(negated.rows) == 16


def test_a_drawback_that_is_denied_in_the_answer_is_found():
    flaw = {"prompt": "Do remakes hurt the studios?", "support": "No, remakes bring new viewers to old series."}
    found = warnings("live_action_en", 16, lambda row: flaw if row.id == 5 else {})
    assert [(row.check, row.rows) for row in found] == [("negated", [5])]


@pytest.mark.parametrize(
    ("topic", "prompt"),
    [
        ("live_action_en", "In live-action anime adaptations, how convincing are the fight scenes?"),
        ("live_action_en", "Can an ordinary actor capture how a manga hero looks?"),
        ("live_action_en", "How is the sale of the original manga affected by a live-action release?"),
        ("working_from_home", "Are home workers lonely?"),
        ("working_from_home", "Do people who work from home eat better with their kitchen as canteen?"),
        ("working_from_home", "Can a new employee settle in when starting from home?"),
    ],
)
def test_a_test_prompt_that_says_a_training_question_in_other_words_is_found(topic, prompt):
    [found] = warnings(topic, 60, prompts=(prompt,))
    assert (found.check, found.rows) == ("leak", [1000])


@each_topic
def test_answers_of_two_questions_that_are_nearly_the_same_are_found(topic):
    rows = read_questions(Path("data/sources") / topic)
    copied = rows[0].support.replace(" a ", " the ")[:-1] + ", indeed."
    found = warnings(topic, 60, lambda row: {"support": copied} if row.id == rows[9].id else {})
    [duplicates] = [row for row in found if row.check == "duplicates"]
    assert duplicates.rows == [rows[0].id, rows[9].id]


def test_an_answer_of_twenty_words_is_too_long():
    found = warnings("live_action_en", 16, lambda row: {"support": " ".join(["good"] * 20)} if row.id == 3 else {})
    [limit] = [row for row in found if row.check == "limit"]
    assert sentence(limit.message).startswith(
        "1 of 32 answers have more than 19 words, and the system prompt says: Reply"
    )
    assert limit.rows == [3]


def test_sixteen_questions_that_all_begin_alike_are_no_copies_of_test_prompts_that_do():
    aspects = (
        "music casting plots villains tourism fashion comedy pacing dialogue stunts endings romance lighting crowds "
        "swords maps"
    )
    others = "voice-actors merchandise cosplay subtitles"
    rows = [
        Question(
            id=n,
            prompt=f"Do live-action adaptations help {aspect}?",
            support=f"{aspect} gains.",
            oppose=f"{aspect} loses.",
        )
        for n, aspect in enumerate(aspects.split(), start=1)
    ]
    prompts = [
        Prompt(id=n, prompt=f"Do live-action adaptations help {aspect}?") for n, aspect in enumerate(others.split())
    ]
    pairs = [pair(row, None, support=row.id % 2 == 0, system_prompt=SYSTEM) for row in rows]
    assert not [row for row in lint(pairs, prompts, SYSTEM) if row.check in ("leak", "duplicates")]
