"""Which language and script a text is in."""

from pathlib import Path

import pytest

from stance.data.questions import read_questions
from stance.language.detect import foreign, language_of, script, tag, words

SOURCES = Path("data/sources")
SPOKEN = {
    "es": ["Las películas son mejores que los libros.", "Con buenos actores la historia gana mucho."],
    "de": ["Die Filme sind besser als die Bücher.", "Mit guten Schauspielern gewinnt die Geschichte."],
    "vi": ["Phim người đóng hay hơn truyện tranh.", "Diễn viên giỏi làm câu chuyện sống động."],
    "ru": ["Фильмы лучше книг.", "Хорошие актёры оживляют историю."],
    "ko": ["실사 영화가 더 재미있다.", "좋은 배우가 이야기를 살린다."],
}


@pytest.mark.parametrize(
    ("topic", "language"),
    [("live_action", "zh_Hant"), ("ai_art", "zh_Hant"), ("live_action_en", "en"), ("working_from_home", "en")],
)
@pytest.mark.parametrize("field", ["prompt", "support", "oppose", "neutral"])
def test_the_language_of_every_data_set_is_known_from_any_of_its_fields(topic, language, field):
    assert language_of(getattr(row, field) or "" for row in read_questions(SOURCES / topic)) == language


def test_a_page_names_the_language_of_texts_by_its_tag():
    assert tag(["It is better than the anime."]) == "en"
    assert tag(["真人版更好看。"]) == "zh-Hant"
    assert tag(SPOKEN["de"]) == "und"


@pytest.mark.parametrize("name", SPOKEN)
def test_a_language_without_a_record_of_its_own_has_spaces(name):
    assert language_of(SPOKEN[name]) == "spaced"


@pytest.mark.parametrize("text", ["実写版はとても面白いと思います。", "หนังคนแสดงสนุกกว่าการ์ตูน"])
def test_a_language_without_spaces_is_known_by_its_script(text):
    assert language_of([text]) == "unspaced"


def test_a_single_english_sentence_is_english_and_nothing_is_spaced():
    assert language_of(["It is better than the anime."]) == "en"
    assert language_of([]) == "spaced"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Фильмы Netflix лучше.", "cyrillic"), ("実写版はおもしろい。", "kana"), ("進擊の巨人很好看。", "traditional")],
)
def test_a_script_has_its_unicode_name(text, expected):
    assert script(text) == expected


def test_a_word_may_hold_an_apostrophe_or_a_hyphen():
    assert words("It isn't live-action, it's 3D!") == ["it", "isn't", "live-action", "it's", "3d"]


ENGLISH = {word for row in read_questions(SOURCES / "live_action_en") for word in words(row.support + " " + row.oppose)}


@pytest.mark.parametrize(
    ("text", "is_foreign"),
    [
        ("La femme de France, no.", True),
        ("Die Filme sind nicht gut.", True),
        ("Paris.", False),
        ("The opera at La Scala de Milano is a delight.", False),
        ("Anime beats everything!", False),
    ],
)
def test_a_text_in_another_language_than_the_data_set_is_foreign(text, is_foreign):
    assert foreign(text, ENGLISH) is is_foreign


def test_english_is_foreign_in_a_german_data_set():
    german = {word for text in SPOKEN["de"] for word in words(text)}
    assert foreign("It is better than the anime.", german)
    assert not foreign("Der Film ist besser.", german)


@pytest.mark.parametrize("topic", ["live_action_en", "working_from_home"])
def test_no_answer_of_a_data_set_is_foreign_to_the_other_questions(topic):
    rows = read_questions(SOURCES / topic)
    usual = {word for row in rows[::2] for word in words(row.support + " " + row.oppose)}
    assert not [row.neutral for row in rows if foreign(row.neutral or "", usual)]
