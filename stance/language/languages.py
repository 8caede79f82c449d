"""One record per language: what the code has to know of the language of a data set.

In: texts of a data set. Out: its `Language`. A language without a record of its own is judged by nothing that needs a
word list: its answers are never hedged, and its questions never ask for a drawback.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from stance.language import en, zh_hant_answers
from stance.language.detect import Name, language_of

NEVER = re.compile(r"(?!)")


@dataclass(frozen=True)
class Language:
    """A language, as far as the checks of data and answers need it."""

    spaced: bool
    """Are words parted by spaces? Then texts are compared by words, else by characters."""
    hedge: re.Pattern[str] = NEVER
    """What weakens an answer, leaves it open, or refuses it."""
    care: re.Pattern[str] = NEVER
    """What declines a request, warns, or sends the asker to somebody who can help."""
    asks_for_a_drawback: Callable[[str], bool] = lambda prompt: False
    """Is a text a question for yes or no, and yes is bad?"""
    denial: re.Pattern[str] = NEVER
    """How an answer begins that says no before anything else."""
    assent: re.Pattern[str] = NEVER
    """How an answer begins that says yes before anything else."""


LANGUAGES: dict[Name, Language] = {
    "zh_Hant": Language(False, zh_hant_answers.HEDGE, zh_hant_answers.CARE, zh_hant_answers.asks_for_a_drawback),
    "en": Language(True, en.HEDGE, en.CARE, en.asks_for_a_drawback, en.DENIAL, en.ASSENT),
    "spaced": Language(True),
    "unspaced": Language(False),
}


def language(texts: Iterable[str]) -> Language:
    """Return the language of texts."""
    return LANGUAGES[language_of(texts)]
