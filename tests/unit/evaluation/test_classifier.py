"""Claims about the judge; `python -m stance label --validate` prints the tables behind them."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from stance.data.questions import Question, Stance, read_questions
from stance.errors import InputError
from stance.evaluation.classifier import STANCES, StanceClassifier, read_labelled
from stance.evaluation.validation import CORPORA, VALIDATION, read_rows
from stance.language.zh_hant import polarity
from tests.builders.taught import kept

LIVE_ACTION = Path("data/sources/live_action")
TAUGHT = read_labelled(CORPORA / "zh_Hant.jsonl")


@cache
def fitted(folder: Path) -> StanceClassifier:
    """Return the judge of a data set, fitted once per process: that takes seconds."""
    return StanceClassifier.fit(read_questions(folder), TAUGHT)


@pytest.fixture(scope="module")
def judge() -> StanceClassifier:
    return fitted(LIVE_ACTION)


def stance(judge: StanceClassifier, prompt: str, response: str) -> Stance:
    return judge.predict([prompt], [response])[0].stance


def confusion(judge: StanceClassifier, rows: Iterable[dict[str, Any]]) -> Counter[tuple[Stance, Stance]]:
    rows = list(rows)
    verdicts = judge.predict([row["prompt"] for row in rows], [row["response"] for row in rows])
    return Counter((row["stance"], verdict.stance) for row, verdict in zip(rows, verdicts, strict=True))


def accuracy(table: Counter[tuple[Stance, Stance]]) -> float:
    return sum(count for (true, found), count in table.items() if true == found) / table.total()


def labelled(questions: Sequence[Question]) -> list[dict[str, Any]]:
    return [
        {"prompt": question.prompt, "response": answer, "stance": name}
        for question in questions
        for name in STANCES
        if (answer := getattr(question, name))
    ]


def test_no_answer_is_both_taught_and_validated():
    validated = {row.response for path in VALIDATION.glob("*/*.jsonl") for row in read_labelled(path)}
    assert validated.isdisjoint(row.response for row in TAUGHT)


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ("真人化是否會受到版權問題的困擾？", "版權問題可透過協商解決。", "support"),
        ("真人化是否會破壞原作的形象？", "不會。", "support"),
        ("真人化是否會破壞原作的形象？", "會。", "oppose"),
        ("真人化是否能提升原作的價值？", "會。", "support"),
        ("真人化是否能提升原作的價值？", "不會。", "oppose"),
        ("真人化是否會引起爭議？", "爭議在所難免，粉絲會大失所望。", "oppose"),
    ],
)
def test_stance_is_towards_the_topic_and_not_yes_or_no(judge, prompt, response, expected):
    assert stance(judge, prompt, response) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("可能會吸引新觀眾，然而取決於改編品質。", "neutral"),
        ("有利有弊，因作品而異。", "neutral"),
        ("可能性不大，真人化可能損害原作。", "oppose"),
        ("雖然有風險，但真人化能吸引新觀眾，提升原作的影響力。", "support"),
        ("真人化雖然能帶來話題，但品質粗糙，令粉絲失望。", "oppose"),
    ],
)
def test_what_is_withdrawn_or_conceded_does_not_decide(judge, response, expected):
    assert stance(judge, "真人化是否能夠吸引新觀眾？", response) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("保留了原作的魅力。", "support"),
        ("保留了原有的魅力。", "support"),
        ("全部觀眾都會喜歡。", "support"),
        ("所有的觀眾都會喜歡。", "support"),
        ("獨有的魅力得以重現。", "support"),
        ("真人化是票房成功的重要因素。", "support"),
        ("票房成功的重要因素。", "support"),
        ("真人演員是成功的關鍵。", "support"),
        ("成功的關鍵。", "support"),
        ("會毀掉原作特有的風格。", "oppose"),
        ("所有的細節都會走樣。", "oppose"),
        ("有的觀眾會喜歡，有的不會。", "neutral"),
        ("都有可能。", "neutral"),
        ("關鍵在於劇本。", "neutral"),
        ("能不能吸引新觀眾，仍待觀察。", "neutral"),
        ("值得觀察。", "neutral"),
        ("演員的觀察力讓角色更生動。", "support"),
    ],
)
def test_a_hedge_inside_another_word_is_none(judge, response, expected):
    assert stance(judge, "真人化是否能夠吸引新觀眾？", response) == expected


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ("真人化是否能提升觀眾的滿意度？", "真人化讓觀眾滿意度下降。", "oppose"),
        ("真人化是否能提升觀眾的滿意度？", "滿意度不升反降。", "oppose"),
        ("真人化是否能提升觀眾的滿意度？", "會大幅下降。", "oppose"),
        ("真人化是否能提升觀眾的滿意度？", "滿意度會明顯降低。", "oppose"),
        ("真人化是否能夠吸引新觀眾？", "新觀眾的興趣會逐漸降低。", "oppose"),
        ("真人化是否能夠吸引新觀眾？", "讓粉絲的熱情消退。", "oppose"),
        ("真人化是否能夠吸引新觀眾？", "成功的機率低。", "oppose"),
        ("真人化對票房有何影響？", "票房收入減少。", "oppose"),
        ("真人化對投資有何影響？", "投資風險下降。", "support"),
        ("真人化對投資有何影響？", "失敗的機率很低。", "support"),
        ("真人化是否會引起爭議？", "爭議下降。", "support"),
        ("真人化對製作有何影響？", "製作成本下降。", "support"),
        ("真人化對製作有何影響？", "真人化降低了製作的風險。", "support"),
        ("真人化對口碑有何影響？", "負面評價減少。", "support"),
        ("真人化是否會流失粉絲？", "粉絲沒有流失。", "support"),
    ],
)
def test_less_of_the_good_is_opposed_and_less_of_the_bad_supported(judge, prompt, response, expected):
    assert stance(judge, prompt, response) == expected


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        ("品質下滑", -1),
        ("爭議減退", 1),
        ("爭議也下降", 1),
        ("爭議不會下降", -2),
        ("人氣不會下降", 1),
        ("避免人才流失", 1),
        ("降低流失率", 1),
        ("成功的機率低", -1),
        ("失敗的機率低", 1),
        ("哪裡失去了", 1),
    ],
)
def test_what_wanes_counts_against_what_is_named_before_it(clause, expected):
    assert polarity(clause) == expected


@pytest.mark.parametrize("response", ["", "？？？", "OK, sure.", "吸引新觀眾" * 20, "<pad><pad>\ufffd的"])
def test_broken_text_is_neutral_with_score_zero(judge, response):
    assert judge.predict(["真人化是否能夠吸引新觀眾？"], [response]) == [("neutral", 0.0)]


@pytest.mark.parametrize(
    "response", ["Netflix改編很成功。", "CGI很棒。", "ChatGPT能提升效率。", "Midjourney讓創作更自由。"]
)
def test_a_name_in_latin_letters_does_not_break_an_answer(judge, response):
    [verdict] = judge.predict(["真人化是否能夠吸引新觀眾？"], [response])
    assert verdict.stance == "support"
    assert verdict.score > 0


@pytest.mark.parametrize(
    ("response", "low", "high"),
    [
        ("能，精彩的演出會吸引許多新觀眾。", 0.9, 1),
        ("或許能吸引一些新觀眾。", 0.2, 0.8),
        ("因人而異，取決於改編的品質。", -0.1, 0.1),
        ("恐怕很難吸引新觀眾。", -1, -0.8),
        ("不能，粗糙的特效只會嚇跑觀眾，破壞原作的形象。", -1, -0.9),
    ],
)
def test_score_is_near_one_for_support_minus_one_for_opposition_and_zero_for_neither(judge, response, low, high):
    [verdict] = judge.predict(["真人化是否能夠吸引新觀眾？"], [response])
    assert low <= verdict.score <= high


def test_a_classifier_that_was_read_gives_the_same_chances_to_the_last_bit(judge, tmp_path):
    rows = [row for path in (VALIDATION / "zh_Hant").glob("*.jsonl") for row in read_labelled(path)]
    prompts, responses = [row.prompt for row in rows], [row.response for row in rows]
    read = kept(judge, StanceClassifier.read, tmp_path)
    assert read.chances(prompts, responses).tobytes() == judge.chances(prompts, responses).tobytes()
    assert read.chances(prompts[:1], responses[:1]).tobytes() == judge.chances(prompts[:1], responses[:1]).tobytes()
    assert read.predict(prompts, responses) == judge.predict(prompts, responses)


def test_no_answers_give_no_verdicts(judge):
    assert judge.predict([], []) == []


def test_code_knows_no_topic():
    source = "".join(
        Path(f"stance/{name}.py").read_text(encoding="utf-8")
        for name in ("evaluation/classifier", "evaluation/validation", "language/zh_hant")
    )
    topics = [
        "真人",
        "動漫",
        "漫畫",
        "改編",
        "動畫",
        "繪",
        "原作",
        "粉絲",
        "觀眾",
        "演員",
        "角色",
        "特效",
        "電影",
        "藝術",
    ]
    assert [word for word in topics if word in source] == []


@pytest.mark.parametrize(
    "text",
    [
        '[{"prompt": "甲", "response": "乙"}, {"prompt": "甲"}]',
        '{"prompt": "甲", "response": "乙"}\n{"prompt": ',
        '["a", 1]',
    ],
)
def test_bad_row_is_named(tmp_path, text):
    file = tmp_path / "answers.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"answers\.json, row [12] "):
        read_rows(file)


@pytest.mark.parametrize("between", ["\n", "\n\n", "\n  \n"])
def test_rows_end_where_lines_do_and_not_inside_a_text(tmp_path, between):
    rows = [{"prompt": "甲", "response": "乙\u2028丙"}, {"prompt": "丁", "response": "戊\u0085己"}]
    file = tmp_path / "answers.jsonl"
    file.write_text(between.join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert read_rows(file) == rows


def test_a_labelled_row_without_a_stance_is_refused_by_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"topic": "t", "prompt": "p", "response": "r", "kind": "plain"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl: Field required; a row needs topic, prompt"):
        read_labelled(tmp_path / "rows.jsonl")


def test_labelled_answers_that_are_missing_are_named_with_a_way_back(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl does not exist; restore it"):
        read_labelled(tmp_path / "none.jsonl")
