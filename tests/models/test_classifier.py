"""The stance classifier as a whole: fitted anew, judged by labelled answers, and as the command `label`."""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from stance.data.questions import Question, Stance, read_questions
from stance.evaluation.classifier import STANCES, StanceClassifier, read_labelled
from stance.evaluation.fitted import judged
from stance.evaluation.validation import SOURCES, VALIDATION, main
from tests.unit.evaluation.test_classifier import (
    LIVE_ACTION,
    TAUGHT,
    accuracy,
    confusion,
    fitted,
    judge,
    labelled,
    stance,
)

__all__ = ["judge"]  # a fixture

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


@pytest.mark.parametrize("topic", ["live_action", "ai_art"])
def test_answers_that_taught_nothing_are_judged_right(topic):
    rows = read_labelled(VALIDATION / f"zh_Hant/{topic}.jsonl")
    assert len(rows) >= 150
    verdicts = judged(fitted(SOURCES / topic), rows)
    table = Counter((row.stance, verdict.stance) for row, verdict in zip(rows, verdicts, strict=True))
    assert accuracy(table) >= 0.9
    for side in STANCES:
        assert table[side, side] >= 0.8 * sum(table[side, other] for other in STANCES), side


def test_questions_left_out_of_the_fit_are_judged_right():
    questions = read_questions(LIVE_ACTION)
    table: Counter[tuple[Stance, Stance]] = Counter()
    for fold in range(3):
        rest = [question for number, question in enumerate(questions) if number % 3 != fold]
        table += confusion(StanceClassifier.fit(rest, TAUGHT), labelled(questions[fold::3]))
    assert accuracy(table) >= 0.9


def test_fitting_is_deterministic(judge):
    again = StanceClassifier.fit(read_questions(LIVE_ACTION), TAUGHT)
    rows = read_labelled(VALIDATION / "zh_Hant/live_action.jsonl")
    prompts, responses = [row.prompt for row in rows], [row.response for row in rows]
    assert again.predict(prompts, responses) == judge.predict(prompts, responses)


def test_eight_questions_on_another_topic_are_enough_to_judge_seven_answers_of_eight():
    rows = enumerate(REMOTE_WORK, start=1)
    questions = [Question(id=number, prompt=ask, support=good, oppose=bad) for number, (ask, good, bad) in rows]
    judge = StanceClassifier.fit(questions, TAUGHT)
    right = [stance(judge, prompt, response) == expected for prompt, response, expected in REMOTE_ANSWERS]
    assert sum(right) >= 7


@pytest.fixture
def label(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `python -m stance label` in this process, and return what it prints; test_readme.py types the command."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["label", *arguments])
        main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_command_prints_every_row_with_its_verdict(label, tmp_path, ending):
    known = read_labelled(VALIDATION / "zh_Hant/live_action.jsonl")[:3]
    rows = [{"id": number, "prompt": row.prompt, "response": row.response} for number, row in enumerate(known)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    file = tmp_path / f"answers.{ending}"
    file.write_text("\n".join(lines) if ending == "jsonl" else f"[{','.join(lines)}]", encoding="utf-8")
    printed = label(str(file), "--dataset", str(LIVE_ACTION)).splitlines()
    found = [json.loads(line) for line in printed]
    assert [{key: row[key] for key in ("id", "prompt", "response")} for row in found] == rows
    assert all(row["stance"] in STANCES and -1 <= row["score"] <= 1 for row in found)
    assert rows[0]["prompt"] in printed[0]


def test_validation_prints_accuracy_confusion_and_the_worst_cases(label):
    printed = label("--validate")
    for topic in ("ai_art", "live_action"):
        assert re.search(rf"{topic}: 1\d\d of 192 right, \d\d\.\d%", printed)
    assert printed.count("the worst cases") == 2
