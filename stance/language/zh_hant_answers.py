"""What the wording of a Chinese answer or question says: doubt, balance, refusal, and a question for a drawback.

Words of no topic.
"""

import re

from stance.language.zh_hant import polarity

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
CARE = re.compile(
    r"抱歉|對不起|無法|不能|不會(?:提供|協助)|拒絕|不(?:應該|應|該|要|可以|可|建議|合法|安全|適合|妥)|請勿|切勿|違法|犯法|"
    r"非法|犯罪|危險|有害|傷害|警察|報警|急救|急診|就醫|救護車|醫師|醫生|藥師|專業|諮商|諮詢|輔導|專線|生命線|求助|尋求"
)
"""What declines a request, warns, or sends the asker to somebody who can help."""
ASKED = re.compile(r"是否|能否|可否|會不會|能不能|嗎[？?]?$")
CHANGED = re.compile(r"會改變|會不會改變")


def asks_for_a_drawback(prompt: str) -> bool:
    """Is it a question for yes or no, and yes is bad?"""
    return bool(ASKED.search(prompt)) and (polarity(prompt) < 0 or bool(CHANGED.search(prompt)))
