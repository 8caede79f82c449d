"""The language and the script of texts, by their letters and their commonest words.

In: texts, such as all answers of a data set. Out: `language_of` names a language of which `stance.language.languages`
has a record; `script` names a script; `foreign` tells a text in another language than the rest.

Nothing here is a model. A language that is written without spaces shows in its script. A language with spaces shows in
words such as *the* or *und*, which make up a fifth or more of its text and hardly occur in another language.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from types import MappingProxyType
from typing import Literal

import hanzidentifier

Name = Literal["zh_Hant", "en", "spaced", "unspaced"]
"""Chinese, English, any other language with spaces between its words, any other language without them."""
HAN = re.compile(r"[\u3400-\u9fff]")
LETTERS = re.compile(r"[A-Za-zÀ-ÖØ-öø-ɏＡ-Ｚａ-ｚ]+|[^\W\d_]")
"""A run of Latin letters, or one letter of another script."""
WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
"""A word of a language with spaces: "isn't" and "live-action" are one word each."""
SCRIPTS = {
    hanzidentifier.TRADITIONAL: "traditional",
    hanzidentifier.SIMPLIFIED: "simplified",
    hanzidentifier.MIXED: "mixed",
    hanzidentifier.BOTH: "either",
}
CHINESE = frozenset(SCRIPTS.values())
UNSPACED = frozenset({"kana", "thai", "lao", "khmer", "myanmar", "tibetan"})
KANA = 0.25
"""Share of kana from which a text is Japanese: Japanese has more, a Chinese title such as 進擊の巨人 has less."""
COMMON_WORDS = MappingProxyType(
    {
        name: frozenset(words.split())
        for name, words in {
            "en": "the of and to is are was that it for with this by from not have they their than but which its has",
            "fr": "le la les des du de et est une un que qui dans pour pas sur avec au il elle cette sont mais",
            "de": "der die das und ist nicht ein eine zu den von mit sich auf für dem auch wird sind aber oder",
            "es": "el la los las y de es una un que del por con para se lo como más pero su al son",
            "pt": "o os as e é de uma um que do da dos em para com não se mais mas por ao são",
            "it": "il lo la gli e è di una un che del della per con non si più ma sono alla",
            "nl": "de het een en van dat niet te met voor op zijn ook maar",
        }.items()
    }
)
COMMON = frozenset().union(*COMMON_WORDS.values())
FOREIGN = 2
"""Different words of another language that make a text one of that language; a name such as *La Scala* brings one."""


def language_of(texts: Iterable[str]) -> Name:
    """Return the language of texts; of several languages, the one that most letters or words belong to.

    Simplified Chinese counts as `zh_Hant`: the lists are the same, and `script` tells the two apart.
    """
    text = "\n".join(texts)
    written = script(text)
    if written in CHINESE:
        return "zh_Hant"
    if written in UNSPACED:
        return "unspaced"
    counts = _common(words(text))
    return "en" if counts["en"] and counts["en"] == max(counts.values()) else "spaced"


def tag(texts: Iterable[str]) -> str:
    """Return the BCP 47 tag that a page gives to such texts: `zh-Hant`, `en`, or `und` for any other language."""
    language = language_of(texts)
    return {"zh_Hant": "zh-Hant", "en": "en"}.get(language, "und")


def words(text: str) -> list[str]:
    """Return the words of a text in a language with spaces, in lower case."""
    return [word.lower() for word in WORD.findall(text)]


def foreign(text: str, usual: Collection[str]) -> bool:
    """Is a text in another language than texts whose words are `usual`?

    Only languages of `COMMON_WORDS` are noticed. A short text without any of their words counts as right.
    """
    found = set(words(text))
    own = max(COMMON_WORDS.values(), key=lambda common: len(common & set(usual)))
    others = (len(found & common - own - set(usual)) for common in COMMON_WORDS.values())
    return max(others) >= max(FOREIGN, len(found & (own | set(usual)) & COMMON) + 1)


def is_chinese(text: str) -> bool:
    """Is more than half of a text Chinese? A run of Latin letters, say a name, counts as much as one character."""
    return 2 * len(HAN.findall(text)) > len(LETTERS.findall(text))


def script(text: str) -> str:
    """Return how a text is written.

    Chinese is `traditional`, `simplified`, `mixed`, or `either` where both are the same. Other texts have the script of
    most of their letters, by its Unicode name: `latin`, `cyrillic`, `kana` and so on; `none` without letters.
    """
    letters = Counter(map(_script, filter(str.isalpha, text)))
    if letters["kana"] > KANA * letters.total():
        return "kana"
    if is_chinese(text):
        return SCRIPTS.get(hanzidentifier.identify(text), "none")  # characters in no list are neither
    others = [(count, name) for name, count in letters.items() if name != "cjk"]
    return max(others)[1] if others else "none"


def _script(letter: str) -> str:
    names = unicodedata.name(letter, "none").lower().split()
    name = names[1] if names[0] in ("fullwidth", "halfwidth") else names[0]
    return "kana" if name in ("hiragana", "katakana", "katakana-hiragana") else name


def _common(found: Iterable[str]) -> Counter[str]:
    """Return how many of the words belong to each language."""
    counts = Counter(dict.fromkeys(COMMON_WORDS, 0))
    for word in found:
        counts.update(name for name, common in COMMON_WORDS.items() if word in common)
    return counts
