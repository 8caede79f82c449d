"""What the stages exchange comes back as it was written, and a file of an earlier version is named."""

import json
import re
from pathlib import Path

import pytest

from stance.data.records import (
    Gate,
    LintWarning,
    in_words,
    read_gates,
    read_warnings,
    write_gates,
    write_warnings,
)
from stance.errors import InputError
from stance.language.messages import SENTENCES, message, sentence
from stance.language.translation import CHINESE, speaking

CATALOGUE = Path("stance/pages/zh_TW.po")
GATE = Gate(
    name="adherence",
    passed=False,
    figure=message("share_of_stance", stance="support", share=0.5, low=0.25, high=0.75),
    bound=message("at_least_share", share=0.8),
    advice=message("longer_training"),
)
WARNING = LintWarning(
    check="duplicates",
    message=message("similar_questions", number=2, examples=[("甲？", "乙？"), ("丙？", "丁？")]),
    rows=[1, 2],
)
OLD = {"name": "parity", "passed": True, "found": "drift 0.002", "expected": "at most 0.05", "advice": "none"}


def test_gates_and_warnings_come_back_as_they_were_written(tmp_path):
    shares = GATE.model_copy(update={"figure": message("shares", shares={"support": 1.0, "oppose": 0.0})})
    flips = GATE.model_copy(update={"figure": message("drift_and_flips", mean=0.1, worst=1.0, top_flips=3, tokens=9)})
    write_gates(tmp_path / "gates.json", [GATE, shares, flips])
    write_warnings(tmp_path / "lint.json", [WARNING])
    assert read_gates(tmp_path / "gates.json") == [GATE, shares, flips]
    assert [sentence(gate.figure) for gate in read_gates(tmp_path / "gates.json")] == [
        "50% support (95% interval 25% to 75%)",
        "100% support, 0% oppose",
        "drift 0.1000 mean, 1.000 worst nats per token; 3 other choices in 9 tokens",
    ]
    assert read_warnings(tmp_path / "lint.json") == [WARNING]


def test_a_file_holds_no_sentence(tmp_path):
    write_gates(tmp_path / "gates.json", [GATE])
    assert json.loads((tmp_path / "gates.json").read_text())[0] == {
        "name": "adherence",
        "passed": False,
        "figure": {"id": "share_of_stance", "values": {"stance": "support", "share": 0.5, "low": 0.25, "high": 0.75}},
        "bound": {"id": "at_least_share", "values": {"share": 0.8}},
        "advice": {"id": "longer_training", "values": {}},
        "warning": False,
    }


def test_one_message_is_said_in_the_language_of_now():
    similar = "2 pairs of questions are nearly the same: 甲？ ~ 乙？; 丙？ ~ 丁？"
    assert sentence(WARNING.message) == similar
    with speaking(CHINESE, CATALOGUE):
        assert sentence(WARNING.message) == "有 2 對題目幾乎相同：甲？ ~ 乙？；丙？ ~ 丁？"
        assert in_words(GATE)["found"] == "50% 支持（95% 信賴區間 25% 至 75%）"
    assert in_words(GATE)["found"] == "50% support (95% interval 25% to 75%)"


@pytest.mark.parametrize(
    ("read", "row"), [(read_gates, OLD), (read_warnings, {"check": "limit", "message": "too long", "rows": [1]})]
)
def test_a_file_of_an_earlier_version_says_what_to_run(tmp_path, read, row):
    path = tmp_path / "old.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(
        InputError, match=r"old.json is not in the format of this version .*; an earlier .* make it again"
    ):
        read(path)


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"gates.json does not exist; expected a finished run: `make repro` first"):
        read_gates(tmp_path / "gates.json")


def test_every_sentence_is_used():
    folders = (Path("stance"), Path("flows"))
    code = "".join(
        path.read_text("utf-8") for folder in folders for path in folder.rglob("*.py") if path.stem != "messages"
    )
    named = set(re.findall(r'"(\w+)"', code)) | {
        f"{name}{bos}"
        for name in ("changed", "unchanged")
        for bos in ("", "_one_bos", "_turn_bos", "_question_bos", "_wrong_bos")
    }
    assert [name for name in SENTENCES if name not in named] == []
