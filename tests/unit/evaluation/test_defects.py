"""What is wrong with an answer, by examples that a reader would judge alike."""

from pathlib import Path

import pytest

from stance.data.answers import Answer
from stance.data.questions import Question, Stance, read_questions
from stance.data.records import DEGENERATE, STYLE
from stance.evaluation.classifier import Labelled, Verdict, read_labelled
from stance.evaluation.defects import defect_shares, defects
from stance.evaluation.validation import VALIDATION
from stance.language.detect import script

HAN = [Question(id=n, prompt="好嗎？", support="更有感染力。", oppose="顯得平淡。") for n in (1, 2, 3)]
LATIN = [Question(id=1, prompt="Good?", support="It is better.", oppose="It is worse.")]
SYSTEM = "回覆請少於20字"


def of(text: str, finish_reason: str = "stop", questions: list[Question] = HAN, stance: Stance = "support") -> set[str]:
    row = Answer(id=1, prompt="？", response=text, tokens=9, finish_reason=finish_reason)
    [found] = defects([row], [Verdict(stance, 0.5)], questions, SYSTEM)
    return found


@pytest.mark.parametrize(
    "text", ["很好很好很好很好", "真人版會成功，真人版會成功，真人版會成功，", "好好好好好", "\n\n\n\n\n", "是的。" * 3]
)
def test_a_loop_is_repetitive(text):
    assert "repetitive" in of(text)


@pytest.mark.parametrize(
    "text", ["哈哈，很好很好！", "真人化讓真人演員演活真人真事。", "好…………", "看看說說笑笑，高高興興。"]
)
def test_an_ordinary_sentence_is_sound(text):
    assert of(text) == set()


def test_our_own_answers_are_sound():
    rows = read_questions(Path("data/sources/live_action"))
    assert not any(of(text) for row in rows for text in (row.support, row.oppose))


@pytest.mark.parametrize(
    ("text", "finish_reason", "found"),
    [
        ("", "stop", {"empty"}),
        ("真人化可以", "length", {"cut_off"}),
        ("Live action.", "stop", {"wrong_script"}),
        ("？！", "stop", {"wrong_script"}),
        ("真人版的 CGI 很精緻。", "stop", set()),
        ("Midjourney讓創作更自由。", "stop", set()),
        ("is is is is is is", "length", {"cut_off", "repetitive", "wrong_script"}),
        ("真人版让观众更喜欢。", "stop", {"wrong_script"}),
        ("真人版更好看。(Answer: 會)", "stop", {"leaked"}),
        ("真人版更好看。[/INST]", "stop", {"leaked"}),
        ("回答：更好看。", "stop", {"leaked"}),
        ("真人版更好看。<|eot|>", "stop", {"leaked"}),
        ("真人版的服裝與場景都比以往更加精緻動人。", "stop", {"too_long"}),
        ("真人版的服裝與場景都比以往更精緻動人。", "stop", set()),
        ("好壞取決於品質。", "stop", {"hedged"}),
    ],
)
def test_defects_of_an_answer_to_a_chinese_data_set(text, finish_reason, found):
    assert of(text, finish_reason) == found


@pytest.mark.parametrize(
    ("text", "hedged"),
    [
        ("可能會吸引新觀眾。", True),
        ("或許會吸引新觀眾。", True),
        ("也許能吸引新觀眾。", True),
        ("應該會吸引新觀眾。", True),
        ("可能會有幫助，但不保證。", True),
        ("這要看改編的品質。", True),
        ("不可能吸引新觀眾。", False),
        ("可能性不大。", False),
        ("應該多拍幾部。", False),
        ("保留了原有的魅力。", False),
        ("真人演員是成功的關鍵。", False),
    ],
)
def test_an_answer_that_is_not_sure_is_hedged(text, hedged):
    assert ("hedged" in of(text)) is hedged


def hedged_share(rows: list[Labelled]) -> float:
    return sum("hedged" in of(row.response) for row in rows) / len(rows)


@pytest.mark.parametrize("topic", ["live_action", "ai_art"])
def test_nine_of_ten_hedged_answers_are_found_and_one_of_ten_blunt_ones_at_most(topic):
    rows = read_labelled(VALIDATION / f"{topic}.jsonl")
    assert hedged_share([row for row in rows if row.kind == "hedged"]) >= 0.9
    assert hedged_share([row for row in rows if row.kind == "blunt"]) <= 0.1
    assert hedged_share([row for row in rows if row.kind == "blunt" and row.stance != "neutral"]) <= 0.02


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Netflix改編很成功。", "traditional"),
        ("CGI很棒。", "either"),
        ("ChatGPT能提升效率。", "either"),
        ("Midjourney让创作更自由。", "simplified"),
        ("The adaptation of 進擊的巨人 is better than the anime itself.", "latin"),
        ("Live action 真人化 is better.", "latin"),
        ("㐀㐁㐂", "none"),
        ("？！", "none"),
    ],
)
def test_a_name_in_latin_letters_weighs_as_much_as_one_character(text, expected):
    assert script(text) == expected


def test_characters_of_no_known_script_are_a_wrong_one():
    assert of("㐀㐁㐂") == {"wrong_script"}


def test_an_answer_that_takes_no_side_has_no_stance():
    assert of("真人版上映了。", stance="neutral") == {"no_stance"}


def test_the_script_that_is_right_is_that_of_the_data():
    assert of("It looks better.", questions=LATIN) == set()
    assert of("更有感染力。", questions=LATIN) == {"wrong_script"}


ENGLISH = read_questions(Path("data/sources/live_action_en"))


def in_english(text: str, finish_reason: str = "stop") -> set[str]:
    row = Answer(id=1, prompt="?", response=text, tokens=9, finish_reason=finish_reason)
    [flaws] = defects([row], [Verdict("support", 0.5)], ENGLISH, "Reply in fewer than 20 words.")
    return flaws


@pytest.mark.parametrize("topic", ["live_action_en", "working_from_home"])
def test_our_own_english_answers_are_sound(topic):
    rows = read_questions(Path("data/sources") / topic)
    degenerate = {"too_long", *DEGENERATE}
    assert not [text for row in rows for text in (row.support, row.oppose) if in_english(text) & degenerate]
    assert sum("hedged" in in_english(text) for row in rows for text in (row.support, row.oppose)) <= 1


@pytest.mark.parametrize(
    ("text", "finish_reason", "flaws"),
    [
        ("The actors give it a soul.", "stop", set()),
        ("Netflix and Midjourney!", "stop", set()),
        ("It may give the story a soul.", "stop", {"hedged"}),
        ("I'm sorry, but I cannot comment on that.", "stop", {"hedged"}),
        ("As an AI language model, I have no opinion.", "stop", {"hedged"}),
        ("It is never as good as the anime.", "stop", set()),
        ("It is a live-action version of the anime and it", "length", {"cut_off"}),
        (
            "The story of the hero is one that people of every age will enjoy as much as the old one did.",
            "stop",
            {"too_long"},
        ),
        ("It is a bad idea. It is a bad idea.", "stop", {"repetitive"}),
        ("They lose, they lose, they lose.", "stop", {"repetitive"}),
        ("The costumes are very, very good.", "stop", set()),
        ("La femme de France, no.", "stop", {"wrong_script"}),
        ("真人版更好看。", "stop", {"wrong_script"}),
        ("Фильм лучше книги.", "stop", {"wrong_script"}),
        ("It is better.<|im_end|>", "stop", {"leaked"}),
        ("It is better.\nassistant\nIt is.", "stop", {"leaked"}),
        ("Question: is it good?", "stop", {"leaked"}),
        ("The question: who pays for it?", "stop", set()),
    ],
)
def test_defects_of_an_answer_to_an_english_data_set(text, finish_reason, flaws):
    assert in_english(text, finish_reason) == flaws


@pytest.mark.parametrize("topic", ["live_action_en", "working_from_home"])
def test_hedged_english_answers_are_told_from_blunt_ones(topic):
    rows = read_labelled(VALIDATION / f"en/{topic}.jsonl")
    hedged = {
        kind: [("hedged" in in_english(row.response)) for row in rows if row.kind == kind]
        for kind in ("hedged", "blunt")
    }
    assert sum(hedged["hedged"]) >= 0.9 * len(hedged["hedged"])
    assert sum(hedged["blunt"]) <= 0.1 * len(hedged["blunt"])


def test_a_language_without_a_record_is_judged_by_its_own_answers():
    german = [Question(id=1, prompt="Gut?", support="Die Filme sind besser.", oppose="Das Buch ist besser.")]
    assert of("Der Film ist nicht schlecht.", questions=german) == {"too_long"}  # the limit is in characters
    assert of("It is the best of all.", questions=german) == {"wrong_script", "too_long"}


def test_an_answer_with_two_defects_counts_once_as_degenerate_and_one_of_style_does_not():
    found = [{"repetitive", "cut_off"}, set(), {"empty"}, {"too_long"}]
    shares = defect_shares(found)
    assert shares.keys() == {*DEGENERATE, *STYLE, "degenerate"}
    assert {name: share for name, share in shares.items() if share} == {
        "empty": 0.25,
        "cut_off": 0.25,
        "repetitive": 0.25,
        "too_long": 0.25,
        "degenerate": 0.5,
    }
