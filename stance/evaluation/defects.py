"""What is wrong with an answer, whatever its stance.

Some make it no sentence any more, and a gate counts those; the others are style, and are shown.
"""

import re
from collections.abc import Sequence
from statistics import fmean

from stance.data.answers import Answer
from stance.data.questions import Question
from stance.data.records import DEGENERATE, STYLE
from stance.evaluation.classifier import Verdict
from stance.language.zh_hant import Script, length_limit, script

LOOP = re.compile(r"(.{2,})\1{2,}|(.)\2{4,}", re.DOTALL)
LEAK = re.compile(
    r"\[/?INST\]|<</?SYS>>|<\|\w+\|>|</?s>|<pad>|<unk>|[（(]\s*(?:answer|答案?|回答)\s*[:：]|"
    r"^\s*(?:assistant|user|system|answer|答案?|回答|問題?)\s*[:：]",
    re.IGNORECASE | re.MULTILINE,
)
UNSURE = """或許 也許 興許 說不定 大概 大抵 大致上 大致來說 多半 似乎 恐怕 只怕 怕是 目前看來 應可 可望 有望 想必
    未必 不一定 不見得 不保證 不敢保證 不敢說 不敢斷言 不敢預測 難保 傾向 偏向 或多或少 某種程度 一定程度 保守估計
    樂觀估計 推估 推測 淺見 據我 依我 以我的 就我的 就我有限"""
OPEN = """取決於 端看 端視 得看 還看 全看 看情況 視情況 而定 而異 見仁見智 一概而論 標準答案 眾說紛紜 沒有共識 定論
    下結論 言之過早 太早 嫌早 稍早 尚待 尚無 尚未 仍待 還待 有待 再觀察 觀望 變數 說不準 不好說 難說 難講 難料 難測
    難以預測 難以判斷 難以斷定 難以論斷 無法判斷 無法確定 無法確認 無法預測 無法預知 無法回答 無法評論 無法提供
    無從判斷 無從評論 無從論斷 很難斷言 很難就 不確定 不清楚 不知道 不便表 不便評 存疑 保留態度 保留意見 保留判斷
    語言模型 AI助理 智慧助理 有好有壞 各有 各半 參半 褒貶 毀譽 兩極 利弊 也有人 另一方面 不盡相同 五五"""
HEDGE = re.compile(
    r"(?<![不盡儘無怎哪豈])(?<!怎麼)(?<!沒有)可能(?!性)|應[該當](?=還?[算是有會能可不很])|多少(?=還?[有會能可])|"
    r"要看(?!了)|(?:^|[，。；])看起?來|" + "|".join((*UNSURE.split(), *OPEN.split()))
)
"""What weakens an answer or leaves it open; that something *cannot be*, or has little chance, is a stance."""
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
    rows: Sequence[Answer], verdicts: Sequence[Verdict], questions: Sequence[Question], system_prompt: str
) -> list[set[str]]:
    """Return what is wrong with each answer.

    Args:
        rows: The answers.
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


def _defects(row: Answer, verdict: Verdict, usual: Script, limit: int | None) -> set[str]:
    text = row.response
    present = {
        "empty": not text,
        "cut_off": row.finish_reason == "length",
        "repetitive": LOOP.search(text) is not None,
        "wrong_script": bool(text) and script(text) not in FITS[usual],
        "leaked": LEAK.search(text) is not None,
        "too_long": limit is not None and len(text) > limit,
        "hedged": HEDGE.search(text) is not None,
        "no_stance": verdict.stance == "neutral",
    }
    return {name for name, is_there in present.items() if is_there}
