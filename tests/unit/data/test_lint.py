"""What the linter finds in data made for it, and in the course's files where they are here."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from stance.data.lint import lint, refuse
from stance.data.pairs import pair
from stance.data.questions import Prompt, Question, read_prompts, read_questions
from stance.errors import InputError
from stance.language.messages import sentence
from stance.language.zh_hant_answers import asks_for_a_drawback

SYSTEM = "回覆請少於20字"
COURSE = Path("../shared/data/genai_hw6")
SOUND = (
    ("配樂會更好嗎？", "配樂叫好。", "配樂失色。"),
    ("怎麼看畫面？", "很讚的畫面。", "爛透的畫面。"),
    ("你喜歡角色？", "我推角色！", "不看角色！"),
    ("劇情值得嗎？", "愛上劇情了。", "劇情輸光了。"),
    ("說說票房吧。", "票房變強了。", "別提票房了。"),
    ("口碑如何？", "真棒，口碑。", "遺憾，口碑。"),
    ("服裝合你意嗎？", "給服裝滿分。", "服裝不及格。"),
    ("該期待燈光？", "燈光贏了。", "難忍燈光。"),
)


def questions(**changes: str) -> list[Question]:
    """Eight questions about which nothing is wrong, and what is changed about the last."""
    rows = [
        {"id": number, "prompt": prompt, "support": support, "oppose": oppose}
        for number, (prompt, support, oppose) in enumerate(SOUND, start=1)
    ]
    rows[-1] |= changes
    return [Question.model_validate(row) for row in rows]


class Warned(NamedTuple):
    """A warning in words."""

    check: str
    message: str
    rows: list[int]


def linted(
    rows: list[Question],
    asked: list[Prompt],
    directions: list[bool],
    system_prompt: str,
    neutral: Mapping[int, str] = MappingProxyType({}),
) -> list[Warned]:
    """Lint the pairs of these questions: for each whether *support* is the chosen answer, or once more for each."""
    twice = zip([*rows, *rows], directions, strict=False)
    pairs = [pair(row, neutral.get(row.id), support=support, system_prompt=SYSTEM) for row, support in twice]
    return [Warned(row.check, sentence(row.message), row.rows) for row in lint(pairs, asked, system_prompt)]


def found(rows: list[Question], prompts: tuple[str, ...] = (), directions: list[bool] | None = None) -> list[Warned]:
    asked = [Prompt(id=number, prompt=text) for number, text in enumerate(prompts, start=1)]
    return linted(rows, asked, directions or [True] * len(rows), SYSTEM)


def test_nothing_is_found_where_nothing_is_wrong():
    assert found(questions(), ("舞蹈呢？",), [True, False] * 4) == []


def test_a_side_that_is_always_longer_is_told_by_its_length():
    rows = [
        row.model_copy(update={"support": f"{row.support}{'好讚妙佳優強贏愛'[row.id - 1]}極了"}) for row in questions()
    ]
    assert [(row.check, row.rows) for row in found(rows)] == [("length", [1, 2, 3, 4, 5, 6, 7, 8])]


OWN = ("看你要什麼", "因人而異，各有所好", "要試過才知道", "不好一概而論")


@pytest.mark.parametrize(("texts", "length"), [([*OWN], "longer"), ([text[:2] for text in OWN], "shorter")])
def test_rejected_answers_of_the_base_that_length_tells_are_named(texts, length):
    rows, asked = questions(), [Prompt(id=1, prompt="舞蹈呢？")]
    neutral = {number: f"{text}。" if length == "longer" else text for number, text in enumerate(texts, start=1)}
    [warned] = linted(rows, asked, [True, False] * 4, SYSTEM, neutral)
    told = f"of 4 answers of the base model that are rejected, 4 are {length} than the chosen one"
    assert (warned.check, warned.message) == ("length", told)
    assert warned.rows == [1, 2, 3, 4]
    other = {3: "看。", 4: "看。"} if length == "longer" else {3: "要試過才知道。", 4: "不好一概而論。"}
    assert linted(rows, asked, [True, False] * 4, SYSTEM, neutral | other) == []


def test_rejected_answers_of_the_base_that_begin_alike_are_named():
    rows, neutral = questions(), {1: "這要看情況。", 2: "這要看誰看", 3: "很難說啊。", 4: "難說。"}
    [warned] = linted(rows, [Prompt(id=1, prompt="舞蹈呢？")], [True, False] * 4, SYSTEM, neutral)
    told = "of 4 answers of the base model that are rejected, 2 begin with 這要看; chosen: 0"
    assert (warned.check, warned.message, warned.rows) == ("opening", told, [1, 2])


def test_an_opening_of_one_side_is_found_at_its_longest():
    rows = [row.model_copy(update={"oppose": f"可能因{row.oppose}"}) if row.id > 5 else row for row in questions()]
    [warned] = [row for row in found(rows) if row.check == "opening"]
    assert warned.message == "3 of 8 oppose answers begin with 可能因, and 0 of the others"
    assert warned.rows == [6, 7, 8]


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"support": "服裝與燈光讓整部作品看起來比以前更加精緻也更動人。"}, "limit"),
        ({"prompt": "燈光是否會引起爭議？"}, "negated"),
        ({"prompt": "配樂會更好嗎？？"}, "duplicates"),
        ({"support": "配樂叫好！"}, "duplicates"),
        ({"support": "灯光赢过从前。"}, "script"),
        ({"support": "Good lights."}, "script"),
    ],
)
def test_a_row_with_a_flaw_is_named(changes, check):
    [warned] = found(questions(**changes))
    assert warned.check == check
    assert 8 in warned.rows


def test_a_test_prompt_that_asks_a_training_question_is_named_by_its_own_id():
    [warned] = found(questions(), ("舞蹈呢？", "有幾集？", "劇情值得嗎？？"))
    assert (warned.check, warned.rows) == ("leak", [3])


@pytest.mark.parametrize("oppose", ["燈光贏了。", "燈光贏了！", " 燈光 贏了"])
def test_a_row_whose_two_answers_are_one_text_is_named(oppose):
    [warned] = [row for row in found(questions(oppose=oppose)) if row.check == "same"]
    told = f"1 of 8 pairs have the same answer on both sides, so that they teach nothing: 燈光贏了。 ~ {oppose.strip()}"
    assert (warned.message, warned.rows) == (told, [8])


def test_an_answer_of_the_base_that_is_the_chosen_one_is_named():
    warnings = linted(questions(), [], [True] * 8, SYSTEM, {2: "很讚的畫面"})
    assert [row.rows for row in warnings if row.check == "same"] == [[2]]


@pytest.mark.parametrize("prompt", ["配樂會更好嗎？", "配樂會更好嗎", "會不會配樂更好？"])
def test_a_held_out_question_that_is_trained_on_is_named_by_its_id(prompt):
    rows = questions()
    pairs = [pair(row, None, support=row.id % 2 == 0, system_prompt=SYSTEM) for row in rows]
    unlike = rows[0].model_copy(update={"id": 20, "prompt": "舞蹈呢？"})
    like = rows[0].model_copy(update={"id": 21, "prompt": prompt})
    [warned] = lint(pairs, [], SYSTEM, [unlike, like])
    assert (warned.check, warned.rows) == ("leak", [21])
    assert sentence(warned.message).startswith("1 of 2 held-out questions are nearly training questions")


def test_row_order_that_is_the_direction_is_found_and_others_are_not():
    assert [row.rows for row in found(questions(), directions=[True] * 5 + [False] * 3)] == [[6, 7, 8]]
    assert found(questions(), directions=[False, True, True, False] * 2) == []
    assert found(questions(), directions=[False] * 8) == []


def test_row_order_of_questions_that_stand_there_twice_counts_all_pairs():
    assert found(questions(), directions=[True] * 8 + [False] * 8) == []  # each of them goes both ways
    [warned] = found(questions(), directions=[True] * 12 + [False] * 4)
    assert warned.message.startswith("the first 12 pairs prefer one side and the other 4 the other")
    assert warned.rows == [5, 6, 7, 8]
    assert found(questions(), directions=[True] * 16) == []


@pytest.mark.parametrize(
    ("prompt", "negated"),
    [
        ("真人化是否會受到版權問題的困擾？", True),
        ("真人化是否會改變原作動畫的風格？", True),
        ("會損害原作嗎？", True),
        ("真人化是否能夠提升價值？", False),
        ("實拍對服裝造型有什麼影響？", False),
    ],
)
def test_a_question_for_a_drawback_is_one_for_yes_or_no(prompt, negated):
    assert asks_for_a_drawback(prompt) is negated


def test_strict_makes_an_error_of_all_warnings_at_once():
    rows = questions(prompt="燈光是否會引起爭議？", support="灯光赢过从前。")
    warned = lint([pair(row, None, support=True, system_prompt=SYSTEM) for row in rows], [], SYSTEM)
    with pytest.raises(InputError, match=r"pairs.strict is true .* negated .* script .*; correct the data, or"):
        refuse(warned)
    refuse([])


@pytest.mark.skipif(not COURSE.exists(), reason="the course's files are not here")
def test_the_course_files_have_the_flaws_that_were_counted_by_hand():
    rows = read_questions(COURSE)
    warned = linted(rows, read_prompts(COURSE), [True] * 25 + [False] * 25, SYSTEM)
    messages = " ".join(row.message for row in warned)
    assert "99 of 100 answers have more than 19 characters" in messages
    assert "46 of 50 support answers hold 真人化" in messages
    assert "16 of 50 oppose answers begin with 真人化可能因" in messages
    assert {row.check for row in warned} >= {"order", "leak", "duplicates"}
    [negated] = [row.rows for row in warned if row.check == "negated"]
    assert set(negated) >= {1, 8, 12, 13, 16, 21, 23, 24, 27}
