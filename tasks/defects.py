"""What is wrong with an answer, whatever its stance.

Some make it no sentence any more, and a gate counts those; the others are style, and are shown.
"""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tasks.gates import DEGENERATE
from tasks.questions import Question
from tasks.stance import Verdict
from tasks.wording import CLAUSE, Script, hedges, length_limit, polarity, script

STYLE = ("too_long", "hedged", "no_stance")
LOOP = re.compile(r"(.{2,})\1{2,}|(.)\2{4,}", re.DOTALL)
LEAK = re.compile(
    r"\[/?INST\]|<</?SYS>>|<\|\w+\|>|</?s>|<pad>|<unk>|[（(]\s*(?:answer|答案?|回答)\s*[:：]|"
    r"^\s*(?:assistant|user|system|answer|答案?|回答|問題?)\s*[:：]",
    re.IGNORECASE | re.MULTILINE,
)
CHINESE: frozenset[Script] = frozenset({"traditional", "simplified", "mixed", "either"})
FITS: dict[Script, frozenset[Script]] = {
    "traditional": frozenset({"traditional", "either"}),
    "simplified": frozenset({"simplified", "either"}),
    "mixed": CHINESE,
    "either": CHINESE,
    "latin": frozenset({"latin", "none"}),
    "none": frozenset({"none"}),
}
"""Which scripts an answer may be in, by that of the training answers."""


def defects(
    rows: Sequence[Mapping[str, Any]], verdicts: Sequence[Verdict], questions: Sequence[Question], system_prompt: str
) -> list[set[str]]:
    """Return what is wrong with each answer.

    Args:
        rows: Answers, each with `response` and vLLM's `finish_reason`.
        verdicts: The judge's, on each of them.
        questions: Of the data set, whose answers are in the script that is wanted.
        system_prompt: Which may limit the length of an answer.
    """
    usual = script("".join(question.support + question.oppose for question in questions))
    limit = length_limit(system_prompt)
    return [_defects(row, verdict, usual, limit) for row, verdict in zip(rows, verdicts, strict=True)]


def defect_shares(found: Sequence[set[str]]) -> dict[str, float]:
    """Return the share of answers with each defect, and with any that makes it `degenerate`."""
    each = {name: fmean(name in row for row in found) for name in (*DEGENERATE, *STYLE)}
    return each | {"degenerate": fmean(not row.isdisjoint(DEGENERATE) for row in found)}


def _defects(row: Mapping[str, Any], verdict: Verdict, usual: Script, limit: int | None) -> set[str]:
    text = row["response"]
    present = {
        "empty": not text,
        "cut_off": row["finish_reason"] == "length",
        "repetitive": LOOP.search(text) is not None,
        "wrong_script": bool(text) and script(text) not in FITS[usual],
        "leaked": LEAK.search(text) is not None,
        "too_long": limit is not None and len(text) > limit,
        "hedged": any(hedges(clause, polarity(clause)) for clause in CLAUSE.findall(text)),
        "no_stance": verdict.stance == "neutral",
    }
    return {name for name, is_there in present.items() if is_there}
