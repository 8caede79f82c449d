"""What the wording of a Traditional Chinese text says: praise, blame, negation, hedges, concessions.

Words of no topic: verbs that raise, lower or resolve what follows, and what is praise or blame about anything.
"""

import math
import re
from collections.abc import Sequence

# Kinds of words: (+) praise, (-) blame; verbs that (U) raise, (D) damage, (L) lower, (R) resolve or (F) fail to do
# what follows; (W) what precedes wanes; (N) negation, (M) hedged negation, (H) hedge, (B) boundary,
# (O) coordination, (X) none of these.
WORDS = {
    "+": """優點 優勢 好處 益處 利益 效益 收益 收入 利多 價值 魅力 活力 動力 潛力 機會 商機 契機 希望 信心 信任 成功
        成就 卓越 優秀 優異 優良 優質 出色 精彩 精緻 精準 精湛 精美 精確 細膩 細緻 生動 逼真 真實 真摯 真切 鮮明
        鮮活 立體 豐富 多元 深刻 深度 深厚 精髓 忠實 忠誠 尊重 完整 完美 自由 自然 流暢 流利 順暢 順利 靈活 靈感
        創新 創意 突破 進步 成長 增長 繁榮 蓬勃 共鳴 感動 動人 動容 感染力 吸引力 影響力 競爭力 生命力 說服力 張力
        爆發力 效率 品質 質感 溫度 層次 新鮮 新穎 新意 驚喜 驚豔 驚艷 震撼 過癮 迷人 亮眼 搶眼 耀眼 亮麗 華麗 壯麗
        壯觀 美麗 美好 美味 優美 優雅 唯美 賞心悅目 扣人心弦 引人入勝 栩栩如生 活靈活現 淋漓盡致 渾然天成 恰到好處
        津津樂道 津津有味 耳目一新 大開眼界 目不轉睛 一氣呵成 有聲有色 有血有肉 有模有樣 有板有眼 大放異彩 身臨其境
        深入人心 歷歷在目 回味無窮 意猶未盡 愛不釋手 心服口服 無懈可擊 無可取代 無可挑剔 可圈可點 如魚得水 如虎添翼
        錦上添花 名利雙收 事半功倍 指日可待 歷久彌新 出類拔萃 更上層樓 水漲船高 蒸蒸日上 欣欣向榮 皆大歡喜 相得益彰
        令人期待 期待 值得 有趣 好看 好聽 好用 好評 好事 好感 好奇 喜愛 喜歡 熱愛 熱情 熱烈 熱鬧 熱絡 熱潮 歡迎 叫好
        讚賞 讚美 讚嘆 稱讚 肯定 認同 認可 認識 理解 接受 支持 滿意 滿足 開心 快樂 幸福 安心 放心 健康 便利 方便
        便宜 舒適 彈性 平衡 公平 安全 穩定 可靠 可行 有效 有益 有利 有幫助 有助 有用 有感 受用 利大於弊 利多於弊
        雙贏 共贏 正面 積極 樂觀 樂見 樂意 願意 明智 合理 健全 專業 友善 親切 親近 貼近 貼切 傳神 到位 適合 合適
        恰當 稱職 勝任 加分 亮點 佳作 經典 受益 受惠 獲益 獲獎 賣座 暢銷 熱銷 獲利 盈利 省時 省力 省錢 節省 不輸
        不遜 勝過 優於 超越 更好 很好 很棒 太棒 超棒 真棒 很讚 超讚 更棒 更佳 更強 更高 更廣 更多 更深 更大 更快
        更有 最佳 極佳 良好 越來越好 輕鬆 容易 清楚 清晰 動聽 悅耳 傳唱 難忘 難得 可觀 可貴 可愛 溫馨 溫暖 療癒 振奮
        鼓舞 新生命 新血 新氣象 新視野 新視角 新平台 新局 新高 認同感 真實感 成就感 幸福感 臨場感 不錯 不可或缺
        不虛此行 無窮 無盡 無價 大有可為 大有助益 大有幫助 大受 風靡 不負眾望 舞台 出頭 紅利 走紅 爆紅 看好 樂趣
        樂在其中 興奮 興致 精進 精良 扎實 紮實 厚實 豐厚 豐碩 豐收 充實 充沛 蛻變 躍升 起飛 起死回生 復甦 活絡 活躍
        踴躍 絕佳 獨到 一流 頂尖 高明 高效 巧妙 奇妙 美妙 絕妙 討喜 帥氣 俐落 細心 貼心""",
    "-": """缺點 缺陷 缺憾 壞處 弊端 弊病 害處 劣勢 問題 爭議 爭執 爭吵 糾紛 衝突 矛盾 困擾 困境 困難 麻煩 障礙 門檻
        瓶頸 阻礙 壓力 負擔 風險 危機 危險 危害 威脅 隱憂 疑慮 憂慮 擔心 擔憂 焦慮 恐懼 不安 不滿 不便 不利 不良
        不當 不佳 不足 不符 不適 不敬 不公平 不公 不妥 不看好 反感 反對 反彈 抗議 抵制 批評 批判 質疑 失望 絕望 灰心
        心寒 沮喪 錯誤 失誤 失當 失禮 失敗 失真 失準 失落 失衡 失業 失控 失焦 失色 落差 差勁 差評 負評 負面 惡評
        惡化 惡劣 惡性 噩夢 災難 悲劇 慘敗 慘淡 慘烈 糟糕 糟蹋 劣質 劣化 拙劣 粗糙 粗劣 粗俗 廉價 敷衍 草率 馬虎
        膚淺 表面 空洞 空虛 平淡 平庸 單調 單薄 乏味 無聊 無趣 枯燥 呆板 死板 僵硬 生硬 生澀 尷尬 彆扭 突兀 違和
        做作 造作 虛假 虛偽 誇張 浮誇 俗氣 混亂 雜亂 凌亂 瑣碎 冗長 拖沓 拖延 拖泥帶水 緩慢 落後 過時 過高 過度 過分
        過於 過重 太過 沉重 沉悶 繁瑣 簡陋 打折扣 大打折扣 索然無味 味同嚼蠟 無味 淡而無味 軟弱 無力 無感 無奈
        無用 無益 無效 無濟於事 徒勞 白費 浪費 虧損 虧本 賠錢 賠本 損失 損傷 代價 昂貴 高昂 後果 誤解 誤會 誤導 偏差
        偏見 歧視 刻板 固有印象 壞印象 污名 汙染 污染 垃圾 詐騙 抄襲 侵權 剝削 壓榨 壟斷 得不償失 弊大於利 弊多於利
        適得其反 本末倒置 畫蛇添足 面目全非 支離破碎 四不像 不倫不類 格格不入 慘不忍睹 每況愈下 雪上加霜 名存實亡
        蕩然無存 消失殆盡 一落千丈 東施效顰 邯鄲學步 貌合神離 差強人意 強差人意 乏善可陳 了無新意 換湯不換藥
        曇花一現 不堪入目 不堪 不知所云 不痛不癢 不忍卒睹 捉襟見肘 綁手綁腳 礙手礙腳 束手束腳 力不從心 事倍功半
        血本無歸 入不敷出 後繼無力 欲振乏力 草草了事 虎頭蛇尾 大失所望 心灰意冷 自毀 自砸 弄巧成拙 流於 走樣 走味
        走調 變調 變質 變味 變形 出戲 跳脫 跳痛 違背 違反 背離 脫離 脫節 偏離 遜色 不如 不及 比不上 輸給 差遠
        太差 很差 更差 變差 很糟 難看 難聽 難堪 難受 難懂 難產 痛苦 疲勞 疲憊 疲乏 孤獨 孤立 疏離 冷漠 冷落 冷清
        冷場 冷淡 憤怒 生氣 嘲笑 嘲諷 笑話 笑柄 崩壞 崩潰
        淘汰 淪為 墊底 可惜 遺憾 可悲 可憐 可笑 反效果 商業化 噱頭 圈錢 寧可 寧願 興趣缺缺 缺缺 乏人問津 無人問津
        沒興趣 意興闌珊 少了 有限 勉強 牽強 太多 吃力 吃虧 倒退
        退步 退卻 退場 走偏 踩雷 地雷 爛尾 爛片 騙錢 傷神 傷心 傷害 寒心 搖頭 皺眉 倒胃口 膩 悶 鬆散 散漫 含糊
        模糊 隨便 低俗 低劣 低下 貧乏 匱乏 貧弱 脆弱 薄弱 微弱 弱點 黯淡 暗淡 蒼白 陳舊 老套 俗套 公式化
        千篇一律 單一 僵化 敗筆 敗壞 累贅 多餘 過勞 內耗 排斥 疏遠 嫌棄 厭惡 厭倦 冒犯 褻瀆 罵名 罵聲 挨罵 吵 提不起
        打不起 興味索然 沒意思 沒意義 沒必要 沒好處 說教 重蹈覆轍 草草 顧此失彼 捨本逐末 買櫝還珠 落空 破滅 泡湯
        落伍 不明智 成本 開銷 抱怨 怨言""",
    "U": """提升 提高 提昇 增加 增進 增強 增添 加強 加深 加速 加快 促進 促使 促成 推動 推廣 帶動 帶來 擴大 擴展 拓展
        拓寬 開拓 開創 開啟 開發 創造 激發 激勵 刺激 吸引 改進 改良 優化 強化 深化 活化 振興 培養 培育 保留 保存
        保護 保持 維持 維護 傳承 傳達 傳遞 呈現 展現 展示 體現 再現 重現 還原 詮釋 發揮 實現 達成 達到 贏得 獲得
        取得 賦予 注入 挖掘 探索 享受 貢獻 造福 普及 觸及 打動 打開 拉近 凝聚 延續 延伸 回饋 翻倍 倍增 大增 變大
        進入 合作 交流 喚起 喚醒 點燃 引領 邁向 提供 擁有 享有 成為 善用 助於 幫助 協助 鼓勵 認識到 累積 匯聚 串連
        接軌 升級 突顯 凸顯 彰顯 昇華 放大 壯大 添 助""",
    "D": """損害 損及 有損 損壞 破壞 傷及 危及 毀掉 毀了 毀壞 摧毀 削弱 稀釋 淡化 扭曲 曲解 竄改 貶低 貶損 詆毀 犧牲
        忽視 忽略 漠視 輕視 無視 侵犯 侵害 侵蝕 剝奪 壓縮 壓抑 限制 侷限 局限 受限 受制 束縛 妨礙 干擾 拖累 拖垮
        拖慢 失去 喪失 缺乏 缺少 欠缺 少掉 刪光 簡化 影響 排擠 抹殺 抹煞 抹去 拋棄 放棄 失掉 掩蓋 沖淡 混淆 打擊
        打斷 動搖 消磨 磨滅 扼殺 折損 耗損 耗盡 透支 犯了 辜負 違逆 隔絕 阻斷 阻隔 破壞了 沒了 砸了 撐不起 抓不到""",
    "L": "降低 減少 減損 縮減 縮小 削減 刪減 減弱 弱化 下修 減 不大 很少 極少 甚少 太少 不多 不高 罕見 少見 不存在",
    "W": """下降 下滑 下跌 流失 衰退 衰落 衰減 沒落 萎縮 縮水 消退 消減 消散 消失 消亡 減退 減半 銳減 驟減 大減 遞減
        暴跌 大跌 崩跌 驟降 大降 滑落 瓦解 變少 變低 變弱 變淡 走低 走弱 走下坡 低落 低迷 退燒 冷卻 歸零 不升反降
        不增反減 很低 偏低 較低 極低 更低 甚低 越來越低 越來越少 愈來愈低 愈來愈少 機率低 機率不高 機率不大 可能性低
        可能性不高 可能性不大 機會不大 機會渺茫 微乎其微 屈指可數 寥寥無幾 少之又少""",
    "F": """無法 難以 很難 難再 太難 未能 不易 無從 無緣 沒辦法 不足以 不再 無助於 無益於 不利於 拿不出 做不到
        達不到 比不過 禁不起 經不起 留不住 跟不上 看不到 看不出 不了 不起 不出 不到""",
    "R": """解決 克服 避免 化解 緩解 紓解 紓緩 減輕 消除 排除 防止 預防 控制 可控 掌控 應對 改善 彌補 擺脫 免除 免於
        沒有成真 不成問題 不成立 不是問題 多慮 打破 跨越 消弭""",
    "N": """不會 不能 不是 不可 不必 不用 不需 不太 不夠 不 沒有 沒 未 未曾 並非 並不 並未 並沒有 絕非 絕不 毫不
        毫無 無 非 別 拒絕 哪裡 哪有 哪會 哪是 哪能 哪來 怎會 怎麼會 怎能 怎麼能 怎可能 怎麼可能 豈會 豈是 豈能 何來
        談不上 稱不上 算不上""",
    "M": "不一定 未必 不見得 不盡然",
    "H": """取決於 取決 端看 端視 要看 得看 全看 還看 看情況 視乎 而定 而異 見仁見智 各有 各異 各半 不一 不盡相同
        不同的看法 有所不同 兩極 兩面 參半 互見 褒貶 毀譽 好壞 利弊 優劣 成敗 得失 高低 難說 很難說 難料 難測
        難以預測 一概而論 難以斷定 難以判斷 無法判斷 無法確定 不確定 尚無 尚未 尚待 仍待 還待 有待 觀察 仍未知
        仍屬未知 仍是未知 尚屬未知 未知數 未定 不明 定論 沒有共識 言之過早
        結論 評估 權衡 衡量 斟酌 平衡點 雙面 雙刃 一方面 另一方面 也有人 另有人 有些人 有些則 部分人 有的 另一些
        兩種 兩派 五五 一半 持平 中立 都有可能 說不準 不好說 關鍵在 關鍵仍 無法回答 無法提供 無法評論 對不起 抱歉
        不清楚 不知道 全憑 各憑 依個人 視個人 與否 難分 不相上下 有關 無關 造化 情況""",
    "B": "並 並且 且 而 而且 因而 從而 進而 就 才 卻 也 又 再 所以 因此 讓 使",
    "O": "或 或是 與 和 及",
    "X": """不僅 不但 不只 不單 不斷 不同 不過 不論 不管 不少 不已 不禁 不得不 不可思議 不可否認 無論 無比 無限 無數
        無疑 非常 除非 非但 未來 特別 類別 個別 區別 性別 分別 差別 級別 別人 別具 沒錯 是否 可否 能否 假設 就是
        或許 未免 才能 人才 才華 剛才 再次 反而 然而 因為 即使 就算 一再 再三 影響因 影響不大 影響有限 的影響 何影響
        如何影響 原有 所有 獨有 特有 既有 固有 現有 應有 該有 具有 含有 觀察力 觀察入微 觀察者 觀察家 觀察員 觀察到
        憑藉 憑據 完全 不一樣 不明白 不明顯 參與 參與者 和平 讓步 大使 天使 使用 使命 普及率 埃及 以及""",
}
PAIRED = re.compile(
    r"(\w)不\1|時.時.|有[^聲血模板憑]有.|忽.忽.|是.是.|半.半.|變.或變.|會不會|能不能|可能.{1,9}?(?:也|亦|又|或)可能.{1,9}"
    r"|(?:否|(\w)不\2|多[遠少高大深久]|好壞|強弱|大小|高低|成敗).{0,9}(?:看|靠|憑|和|與|跟)"
)
ASIDE = re.compile(PAIRED.pattern + "|為了.{1,9}?(?=而)|因.{1,12}?而|未(?=.{1,3}的)")
GOOD = frozenset("優佳美妙精豐盛暖喜愉悅讚勝旺興揚醉迷趣棒酷好甜巧靈雅亮")
BAD = frozenset("劣爛糟壞差失損虧敗衰弱枯乏悶僵醜亂怨怒罵嫌厭倦廢毀淺俗冷薄碎賠拙垮")
CONTRAST = re.compile("但是|但|然而|不過|可是|卻|反而|其實|事實上|實際上")
CONCESSION = re.compile("雖|儘管|縱使|即使|就算|固然|有人說|有人認為|有人擔心|表面上")
CONCLUSION = re.compile("總之|總而言之|總的來說|總體|整體|綜上|綜合|因此|所以|我認為|我不認為|最終|結論")
NO = re.compile(
    "(?:當然|絕對|肯定|確實|的確|真的|完全|根本|一點也|一點都)?(?:不會|不能|不是|不行|不可能|不見得|不值得|不|否|沒有|並不|並非|未必)"
)
YES = re.compile("是的|是|會|能夠|能|可以|有的|有|當然|確實|的確|沒錯|對|肯定|絕對|值得|很容易")
WORRIED = re.compile("不|沒|擔心|失去|傷|害|壞|憂|問題|浪費|影響|可惜|犧牲|風險|負擔|怕")
"""In a question that looks for a drawback, or is negated."""
CLAUSE = re.compile(r"[^，,。．；;！!？?：:、\s]+[。；;！!？?]?")
KIND = {word: kind for kind, words in WORDS.items() for word in words.split()}
LEXICON = re.compile("|".join(sorted(KIND, key=lambda word: (-len(word), word))))


def features(prompt: str, response: str) -> list[float]:
    """Return ten figures of an answer's wording: what it says on balance and at its end, praise, blame, and hedges."""
    clauses = CLAUSE.findall(response) or [""]
    values = [polarity(clause, prompt) for clause in clauses]
    weighted = [value * weight for value, weight in zip(values, _weights(clauses), strict=True)]
    praise = math.tanh(sum(value for value in weighted if value > 0))
    blame = math.tanh(-sum(value for value in weighted if value < 0))
    cautious = [hedges(clause, value) for clause, value in zip(clauses, values, strict=True)]
    letters = [(letter in GOOD) - (letter in BAD) for letter in response if letter not in prompt]
    led = direct(prompt, clauses[0])
    return [
        math.tanh(sum(weighted) + led),
        math.tanh(values[-1]),
        praise,
        blame,
        min(praise, blame),
        float(not any(values)),
        min(sum(cautious), 3) / 2,
        min(cautious[-1], 2) / 2,
        math.tanh(sum(letters)),
        led,
    ]


def placed(prompt: str, response: str) -> list[str]:
    """Return the character n-grams of an answer's first clause, as an answer to its kind of question, and of its last.

    So that a yes to a worried question, and what an answer comes to in the end, differ from the same words elsewhere.
    """
    clauses = CLAUSE.findall(response) or [""]
    asked = "?-" if WORRIED.search(prompt) else "?+"
    return [*_ngrams(asked, clauses[0]), *_ngrams("$", clauses[-1])]


def _ngrams(mark: str, text: str) -> list[str]:
    return [mark + text[start : start + size] for size in (1, 2, 3) for start in range(len(text) - size + 1)]


def hedges(clause: str, value: float) -> int:
    """Return how many words of a clause leave the matter open; `value` is its polarity."""
    kinds = [KIND[word] for word in LEXICON.findall(clause)]
    return kinds.count("H") + (kinds.count("M") if value <= 0 else 0) + len(PAIRED.findall(clause))


def polarity(clause: str, prompt: str = "") -> float:
    """Return praise minus blame of one clause, in [-2, 2]; what its question asks about is not yet said of it."""
    total, segment = 0.0, _Segment()
    words = LEXICON.findall(ASIDE.sub("", clause))
    if len(words) > 1 and KIND[words[0]] == "+" and words[0] in prompt:
        words = words[1:]  # what the question asks about, not yet what the answer says of it
    coordinated = False
    kinds = "".join(KIND[word] for word in words)
    for kind in re.sub("B(?=W)", "", kinds):  # 也 or 就 does not part what wanes from its subject
        verb = kind in "UDLRF"
        if kind == "B" or (kind == "F" and segment.verbs) or (verb and coordinated):
            total += segment.value()
            segment = _Segment()
        coordinated = kind == "O"
        segment.add(kind)
    return max(-2.0, min(2.0, total + segment.value()))


class _Segment:
    """Words between two boundaries: verbs and negation bear on the praise or blame that follows, or precedes."""

    def __init__(self) -> None:
        """Start with nothing said."""
        self.total, self.sign = 0, 1
        self.verbs, self.named = "", False  # verbs still without an object; whether praise or blame was named
        self.blamed = False  # whether what was named last is blame

    def add(self, kind: str) -> None:
        """Take in the kind of the next word."""
        if kind == "W":
            kind = "+" if self.blamed else "-"  # less blame is praise, and less of all else is blame
        if kind in "+-":
            value = -self.sign if kind == "-" or "R" in self.verbs else self.sign  # what is good is not resolved
            self.total = value if self.total * value < 0 else self.total + value  # the head of a phrase comes last
            self.verbs, self.named, self.blamed = "", True, kind == "-"
        elif kind in "UDLRF" or (kind in "NM" and not self.verbs):
            if self.named:
                self.sign, self.named = 1, False
            self.sign *= 1 if kind == "U" else -1
            self.verbs += kind if kind in "UDLRF" else ""

    def value(self) -> float:
        """Return praise minus blame."""
        if not self.verbs:
            return self.total
        if "R" in self.verbs or ("L" in self.verbs and self.total < 0):
            return -self.sign * max(abs(self.total), 1)
        if self.sign > 0:
            return self.total or 1
        return -max(abs(self.total), 1)


def _weights(clauses: Sequence[str]) -> list[float]:
    weights, concluding, conceding = [], False, False
    last_turn = max((number for number, clause in enumerate(clauses) if CONTRAST.match(clause)), default=0)
    for number, clause in enumerate(clauses):
        concluding = concluding or bool(CONCLUSION.match(clause))
        conceding = bool(CONCESSION.search(clause)) or (conceding and not CONTRAST.match(clause))
        weights.append(0.3 if conceding else 2.0 if concluding else 0.6 if number < last_turn else 1.0)
        conceding = conceding and clause[-1] not in "。！!；;"
    return weights


def direct(prompt: str, first: str) -> float:
    """Return what a leading yes or no says about the topic: 1, 0 or -1."""
    if len(first) > 5 or not re.search("是否|嗎|不", prompt):
        return 0.0
    asked = -1.0 if polarity(prompt) < 0 else 1.0
    return -asked if NO.match(first) else asked if YES.match(first) else 0.0
