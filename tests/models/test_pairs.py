"""The stage `pairs` with the base model's own answers, which a classifier judges."""

import json
import shutil
from pathlib import Path

from stance.data.questions import read_questions
from tests.builders.taught import write_classifier
from tests.unit.data.test_pairs import made, options


def test_a_neutral_answer_of_the_base_is_rejected_in_place_of_the_opposite_one(tmp_path):
    source = Path("data/sources/live_action")
    questions = read_questions(source)
    shutil.copytree(source, tmp_path / "data")
    write_classifier(source, tmp_path / "data/classifier")
    answers = {1: questions[0].neutral, 2: questions[1].support, 3: "It depends on the film.", 4: questions[3].neutral}
    rows = [
        {
            "id": row.id,
            "prompt": row.prompt,
            "response": answers.get(row.id, row.oppose),
            "tokens": 9,
            "finish_reason": "length" if row.id == 4 else "stop",
        }
        for row in questions
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "data/answered").mkdir()
    (tmp_path / "data/answered/questions.jsonl").write_text(lines, encoding="utf-8")
    train, _ = made(tmp_path / "data", tmp_path / "out", options(4, "1", rejected="base"))
    assert [row["rejected"][0]["content"] for row in train] == [
        questions[0].neutral,
        *(row.oppose for row in questions[1:4]),
    ]
    assert [row["against"] for row in train] == ["neutral", "oppose", "oppose", "oppose"]
