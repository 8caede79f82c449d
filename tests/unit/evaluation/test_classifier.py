"""Claims about the judge; `python -m stance label --validate` prints the tables behind them."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stance.data.questions import Question, Stance, read_questions
from stance.errors import InputError
from stance.evaluation.classifier import STANCES, Judge, read_labelled
from stance.evaluation.validation import CORPUS, SOURCES, VALIDATION, judged, read_rows
from stance.language.zh_hant import polarity

LIVE_ACTION = Path("data/sources/live_action")
TAUGHT = read_labelled(CORPUS)

REMOTE_WORK = [
    ("遠距工作是否能提高員工的效率？", "遠距工作減少通勤，員工更能專注。", "遠距工作容易分心，進度常常落後。"),
    ("遠距工作是否會影響團隊溝通？", "視訊與訊息工具讓溝通更即時。", "少了面對面，團隊溝通容易產生誤會。"),
    ("遠距工作是否有助於留住人才？", "彈性的工作地點讓人才願意留下。", "缺乏歸屬感使人才更快離職。"),
    ("遠距工作是否會造成孤立感？", "定期聚會就能避免孤立感。", "長期在家獨自上班令人感到孤單。"),
    ("遠距工作是否能降低公司的成本？", "公司可以省下租金與水電。", "設備與資安的支出反而增加負擔。"),
    ("遠距工作對新進員工有何影響？", "新進員工能依自己的步調學習。", "新進員工得不到即時指導，難以融入。"),
    ("遠距工作是否能改善生活品質？", "在家上班讓家庭與工作更平衡。", "工作與休息的界線模糊，壓力更大。"),
    ("遠距工作是否會帶來資安風險？", "完善的加密機制足以防止外洩。", "家用網路漏洞多，資料容易外洩。"),
]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.fit(read_questions(LIVE_ACTION), TAUGHT)


def stance(judge: Judge, prompt: str, response: str) -> Stance:
    return judge.verdicts([prompt], [response])[0].stance


def confusion(judge: Judge, rows: Iterable[dict[str, Any]]) -> Counter[tuple[Stance, Stance]]:
    rows = list(rows)
    verdicts = judge.verdicts([row["prompt"] for row in rows], [row["response"] for row in rows])
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


@pytest.mark.slow
@pytest.mark.parametrize("topic", ["live_action", "ai_art"])
def test_answers_that_taught_nothing_are_judged_right(topic):
    rows = read_labelled(VALIDATION / f"{topic}.jsonl")
    assert len(rows) >= 150
    found = judged(Judge.fit(read_questions(SOURCES / topic), TAUGHT), rows)
    table = Counter((row.stance, verdict.stance) for row, verdict in found)
    assert accuracy(table) >= 0.9
    for side in STANCES:
        assert table[side, side] >= 0.8 * sum(table[side, other] for other in STANCES), side


def test_no_answer_is_both_taught_and_validated():
    validated = {row.response for path in VALIDATION.glob("*.jsonl") for row in read_labelled(path)}
    assert validated.isdisjoint(row.response for row in TAUGHT)


@pytest.mark.slow
def test_questions_left_out_of_the_fit_are_judged_right():
    questions = read_questions(LIVE_ACTION)
    table: Counter[tuple[Stance, Stance]] = Counter()
    for fold in range(3):
        rest = [question for number, question in enumerate(questions) if number % 3 != fold]
        table += confusion(Judge.fit(rest, TAUGHT), labelled(questions[fold::3]))
    assert accuracy(table) >= 0.9


@pytest.mark.slow
def test_fitting_is_deterministic(judge):
    again = Judge.fit(read_questions(LIVE_ACTION), TAUGHT)
    rows = read_labelled(VALIDATION / "live_action.jsonl")
    prompts, responses = [row.prompt for row in rows], [row.response for row in rows]
    assert again.verdicts(prompts, responses) == judge.verdicts(prompts, responses)


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
    assert judge.verdicts(["真人化是否能夠吸引新觀眾？"], [response]) == [("neutral", 0.0)]


@pytest.mark.parametrize(
    "response", ["Netflix改編很成功。", "CGI很棒。", "ChatGPT能提升效率。", "Midjourney讓創作更自由。"]
)
def test_a_name_in_latin_letters_does_not_break_an_answer(judge, response):
    [verdict] = judge.verdicts(["真人化是否能夠吸引新觀眾？"], [response])
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
    [verdict] = judge.verdicts(["真人化是否能夠吸引新觀眾？"], [response])
    assert low <= verdict.score <= high


def test_no_answers_give_no_verdicts(judge):
    assert judge.verdicts([], []) == []


REMOTE_ANSWERS: list[tuple[str, str, Stance]] = [
    ("遠距工作是否能提升員工滿意度？", "能，員工在家上班更自在，滿意度提升。", "support"),
    ("遠距工作是否會拖垮團隊士氣？", "不會，彈性的安排反而讓士氣更好。", "support"),
    ("遠距工作是否會造成溝通障礙？", "善用工具就能克服溝通障礙。", "support"),
    ("遠距工作是否能提升員工滿意度？", "在家上班壓力大又孤單，滿意度下降。", "oppose"),
    ("遠距工作是否會拖垮團隊士氣？", "會，少了面對面，士氣低落。", "oppose"),
    ("遠距工作是否有助於創新？", "隔著螢幕難以激發創意。", "oppose"),
    ("遠距工作是否有助於創新？", "這取決於團隊的文化與制度。", "neutral"),
    ("遠距工作是否能提升員工滿意度？", "因人而異，有人喜歡，也有人不習慣。", "neutral"),
]


@pytest.mark.slow
def test_eight_questions_on_another_topic_are_enough_to_judge_seven_answers_of_eight():
    rows = enumerate(REMOTE_WORK, start=1)
    questions = [Question(id=number, prompt=ask, support=good, oppose=bad) for number, (ask, good, bad) in rows]
    judge = Judge.fit(questions, TAUGHT)
    right = [stance(judge, prompt, response) == expected for prompt, response, expected in REMOTE_ANSWERS]
    assert sum(right) >= 7


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


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_command_prints_every_row_with_its_verdict(tmp_path, ending):
    known = read_labelled(VALIDATION / "live_action.jsonl")[:3]
    rows = [{"id": number, "prompt": row.prompt, "response": row.response} for number, row in enumerate(known)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    file = tmp_path / f"answers.{ending}"
    file.write_text("\n".join(lines) if ending == "jsonl" else f"[{','.join(lines)}]", encoding="utf-8")
    command = [sys.executable, "-m", "stance", "label", str(file), "--dataset", str(LIVE_ACTION)]
    printed = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout.splitlines()
    found = [json.loads(line) for line in printed]
    assert [{key: row[key] for key in ("id", "prompt", "response")} for row in found] == rows
    assert all(row["stance"] in STANCES and -1 <= row["score"] <= 1 for row in found)
    assert rows[0]["prompt"] in printed[0]


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


@pytest.mark.slow
def test_validation_prints_accuracy_confusion_and_the_worst_cases():
    command = [sys.executable, "-m", "stance", "label", "--validate"]
    printed = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    for topic in ("ai_art", "live_action"):
        assert re.search(rf"{topic}: 1\d\d of 192 right, \d\d\.\d%", printed)
    assert printed.count("the worst cases") == 2


def test_a_labelled_row_without_a_stance_is_refused_by_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"topic": "t", "prompt": "p", "response": "r", "kind": "plain"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl: Field required; a row needs topic, prompt"):
        read_labelled(tmp_path / "rows.jsonl")


def test_labelled_answers_that_are_missing_are_named_with_a_way_back(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl does not exist; restore it"):
        read_labelled(tmp_path / "none.jsonl")
