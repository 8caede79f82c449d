"""What is wrong with an answer, whatever its stance.

Some make it no sentence any more, and a gate counts those; the others are style, and are shown.
"""

import re
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple, Self

from stance.data.answers import Answer
from stance.data.questions import Question
from stance.data.records import DEGENERATE, STYLE
from stance.evaluation.classifier import Verdict
from stance.language.detect import CHINESE, foreign, script, words
from stance.language.languages import Language, language
from stance.language.limits import Limit, length_limit

LOOP = re.compile(r"(.{2,})\1{2,}|(.)\2{4,}", re.DOTALL)
REPEATED = re.compile(r"(?<!\S)(?:((?:\S+ ){4,})\1|((?:\S+ )+)\2{2,})")
"""In words, each with a space after it: four words and more twice in a row, or any three times."""
LEAK = re.compile(
    r"\[/?INST\]|<</?SYS>>|<\|\w+\|>|</?s>|<pad>|<unk>|[（(]\s*(?:answer|答案?|回答)\s*[:：]|"
    r"^\s*(?:assistant|user|system|question|answer|答案?|回答|問題?)\s*[:：]|^\s*(?:assistant|user|system)\s*$",
    re.IGNORECASE | re.MULTILINE,
)
"""Marks and roles of a chat template, such as a model repeats them."""


def defects(
    rows: Sequence[Answer], verdicts: Sequence[Verdict], questions: Sequence[Question], system_prompt: str
) -> list[set[str]]:
    """Return what is wrong with each answer.

    Args:
        rows: The answers.
        verdicts: The judge's, on each of them.
        questions: Of the data set, whose answers are in the script and the language that are expected.
        system_prompt: Which may limit the length of an answer.
    """
    expected = Expected.of([text for row in questions for text in (row.support, row.oppose)], system_prompt)
    return [_defects(row, verdict, expected) for row, verdict in zip(rows, verdicts, strict=True)]


class Expected(NamedTuple):
    """What the answers of the data set and the system prompt lead to expect of an answer."""

    language: Language
    script: str
    words: frozenset[str]
    """Words of the data set's answers; empty for a language without spaces."""
    limit: Limit | None

    @classmethod
    def of(cls, texts: Sequence[str], system_prompt: str) -> Self:
        """Read it out of the answers of a data set and out of the system prompt."""
        spoken = language(texts)
        usual = frozenset(word for text in texts for word in words(text)) if spoken.spaced else frozenset()
        return cls(spoken, script("".join(texts)), usual, length_limit(system_prompt))

    def fits(self, text: str) -> bool:
        """Is a text in the script and, as far as its words show, in the language of the data set?"""
        written = script(text)
        if self.script not in CHINESE:
            other = self.language.spaced and foreign(text, self.words)
            return written in (self.script, "none") and not other
        return written in CHINESE and (self.script in ("mixed", "either") or written in (self.script, "either"))


def defect_shares(found: Sequence[set[str]]) -> dict[str, float]:
    """Return the share of answers with each defect, and with any that makes it `degenerate`."""
    each = {name: fmean(name in row for row in found) for name in (*DEGENERATE, *STYLE)}
    return each | {"degenerate": fmean(not row.isdisjoint(DEGENERATE) for row in found)}


def _defects(row: Answer, verdict: Verdict, expected: Expected) -> set[str]:
    text = row.response
    present = {
        "empty": not text,
        "cut_off": row.finish_reason == "length",
        "repetitive": LOOP.search(text) is not None or (expected.language.spaced and repeats(text)),
        "wrong_script": bool(text) and not expected.fits(text),
        "leaked": LEAK.search(text) is not None,
        "too_long": expected.limit is not None and expected.limit.exceeded_by(text),
        "hedged": expected.language.hedge.search(text) is not None,
        "no_stance": verdict.stance == "neutral",
    }
    return {name for name, is_there in present.items() if is_there}


def is_whole(row: Answer) -> bool:
    """Is an answer a text that ends by itself and does not repeat itself?"""
    text = row.response
    return bool(text) and row.finish_reason == "stop" and LOOP.search(text) is None and not repeats(text)


def repeats(text: str) -> bool:
    """Does a text in a language with spaces repeat its words in a row?"""
    return REPEATED.search("".join(f"{word} " for word in words(text))) is not None
