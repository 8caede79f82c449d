"""The catalogues hold what the pages say, all of it and nothing else, and the language of now is what was set."""

import re
from functools import cache
from pathlib import Path

import pytest
from babel.messages.catalog import Message
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from stance.config.params import Params
from stance.config.profiles import PROFILES
from stance.language.translation import CHINESE, ENGLISH, NAMES, _, listed, ngettext, speaking, spoken, word
from stance.pages.render import CATALOGUE

TEMPLATES = {"newstyle_gettext": "true", "silent": "false"}
CATALOGUES = [CATALOGUE]
HOLES = re.compile(r"%\(\w+\)s|%%|\{\w+(?::[^}]*)?\}|<[^>]*>|`[^`]*`")
"""What a translation must keep: the places for values, markup and commands."""

each_catalogue = pytest.mark.parametrize("path", CATALOGUES, ids=str)


def forms(text: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


@cache
def used(folder: str) -> frozenset[tuple[str, ...]]:
    """Return the messages in the code and templates of a folder, one with a plural as both forms."""
    methods = [("**.py", "python"), ("**.j2", "jinja2")]
    return frozenset(forms(found[2]) for found in extract_from_dir(folder, methods, {"**.j2": TEMPLATES}))


def translated(path: Path) -> list[Message]:
    with path.open("rb") as file:
        return [message for message in read_po(file) if message.id]


def known(path: Path) -> set[tuple[str, ...]]:
    return {forms(message.id) for message in translated(path)}


def test_every_message_of_the_pages_is_in_the_catalogue_and_no_other_is():
    assert known(CATALOGUE) == used("stance")


@each_catalogue
def test_every_message_is_translated(path):
    messages = translated(path)
    assert messages
    assert [message.id for message in messages if message.fuzzy or not all(forms(message.string))] == []


@each_catalogue
def test_a_translation_keeps_the_places_for_values_the_markup_and_the_commands(path):
    wrong = [
        (one, other)
        for message in translated(path)
        for one in forms(message.id)
        for other in forms(message.string)
        if sorted(HOLES.findall(one)) != sorted(HOLES.findall(other))
    ]
    assert wrong == []


@each_catalogue
def test_a_parameter_that_a_message_names_is_one_and_its_translation_names_it_too(path):
    blocks = Params.load(PROFILES / "miniature-rlhf.yaml").model_dump()
    dotted = re.compile(rf"\b({'|'.join(blocks)})\.(\w+)")
    for message in translated(path):
        [first, *_plural] = forms(message.id)
        named = dotted.findall(first)
        assert all(key in blocks[block] for block, key in named)
        assert sorted(dotted.findall(forms(message.string)[0])) == sorted(named)


def test_a_language_is_spoken_within_its_block_and_english_outside():
    with speaking(CHINESE, *CATALOGUES):
        assert (spoken(), _("Defects"), word("cut_off"), listed("ab")) == (CHINESE, "瑕疵", "被截斷", "a、b")
        with speaking(ENGLISH, *CATALOGUES):
            assert (spoken(), _("Defects")) == (ENGLISH, "Defects")
        assert _("Pooled") == "合併統計"
    assert (spoken(), _("Defects"), word("cut_off"), listed("ab")) == (ENGLISH, "Defects", "cut off", "a, b")


def test_an_error_ends_the_language_too():
    with pytest.raises(ValueError, match="瑕疵"), speaking(CHINESE, *CATALOGUES):
        raise ValueError(_("Defects"))
    assert spoken() == ENGLISH


@pytest.mark.parametrize(("number", "one"), [(1, True), (0, False), (2, False)])
def test_english_has_two_forms_and_chinese_one(number, one):
    both = "{found} on {number} unseen prompt", "{found} on {number} unseen prompts"
    assert ngettext(*both, number) == both[0 if one else 1]
    with speaking(CHINESE, *CATALOGUES):
        assert ngettext(*both, number) == "{number} 道沒看過的題目中，{found}"


def test_what_no_catalogue_has_stays_english():
    with speaking(CHINESE, *CATALOGUES):
        assert _("never written") == "never written"


def test_no_two_names_are_one_word_in_chinese():
    with speaking(CHINESE, *CATALOGUES):
        assert len({word(name) for name in NAMES}) == len(NAMES)
