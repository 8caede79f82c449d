"""The language of a page: English as it stands in code and templates, or another one by gettext catalogues.

A catalogue is read as it is kept, never compiled. What runs outside of `speaking` - every stage but `report` - speaks
English and reads none.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po


class Language(NamedTuple):
    """A language that pages are written in."""

    tag: str
    """As HTML has it."""
    name: str
    """In itself."""
    page: str
    """File of a page, beside those in other languages."""


ENGLISH = Language("en", "English", "index.html")
CHINESE = Language("zh-Hant", "繁體中文", "index.zh-TW.html")
LANGUAGES = (ENGLISH, CHINESE)
_speech: ContextVar[tuple[Language, NullTranslations]] = ContextVar("speech", default=(ENGLISH, NullTranslations()))


@contextmanager
def speaking(language: Language, *catalogues: Path) -> Iterator[None]:
    """Translate within the block; of two catalogues that have a message the first counts, and English needs none."""
    translations = NullTranslations()
    for path in catalogues if language != ENGLISH else ():
        translations.add_fallback(read(path))
    before = _speech.set((language, translations))
    try:
        yield
    finally:
        _speech.reset(before)


def read(catalogue: Path) -> GNUTranslations:
    """Return the translations in a file."""
    compiled = BytesIO()
    with catalogue.open("rb") as file:
        write_mo(compiled, read_po(file))
    compiled.seek(0)
    return GNUTranslations(compiled)


def spoken() -> Language:
    """Return the language of now."""
    return _speech.get()[0]


def _(message: str) -> str:
    """Return a message in the language of now."""
    return _speech.get()[1].gettext(message)


def ngettext(one: str, many: str, number: int) -> str:
    """Return the form of a message that goes with a number, in the language of now."""
    return _speech.get()[1].ngettext(one, many, number)


def N_(message: str) -> str:
    """Mark a message that is translated where it is shown."""
    return message


NAMES = {
    "support": N_("support"),
    "neutral": N_("neutral"),
    "oppose": N_("oppose"),
    "empty": N_("empty"),
    "cut_off": N_("cut off"),
    "repetitive": N_("repetitive"),
    "wrong_script": N_("wrong script or language"),
    "leaked": N_("leaked"),
    "too_long": N_("too long"),
    "hedged": N_("hedged"),
    "no_stance": N_("no stance"),
    "degenerate": N_("degenerate"),
    "traditional": N_("traditional"),
    "simplified": N_("simplified"),
    "mixed": N_("mixed"),
    "latin": N_("latin"),
    "kana": N_("kana"),
    "cyrillic": N_("cyrillic"),
    "none": N_("none"),
}
"""Stances, defects and scripts: as files have them, and as people read them."""


def word(name: str) -> str:
    """Return a stance, a defect or a script in the language of now; a script without a name here as it is."""
    return _(NAMES.get(name, name))


def listed(words: Iterable[str]) -> str:
    """Return words one after the other, with the comma of the language of now."""
    return _(", ").join(words)
