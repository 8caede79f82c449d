"""The command `label` under both its names, with the classifier that it fits."""

from importlib import import_module

from stance.evaluation import validation
from tests.unit.test_commands import python


def test_the_earlier_name_of_label_is_the_same_command(tmp_path):
    rows = tmp_path / "answers.jsonl"
    rows.write_text(
        '{"prompt": "真人化好看嗎？", "response": "真人版讓角色更貼近觀眾，我很支持。"}\n', encoding="utf-8"
    )
    arguments = (str(rows), "--dataset", "data/sources/live_action")
    labelled, earlier = python("-m", "stance", "label", *arguments), python("-m", "tasks.stance", *arguments)
    assert labelled.returncode == 0
    assert '"stance": ' in labelled.stdout
    assert (earlier.returncode, earlier.stdout, earlier.stderr) == (0, labelled.stdout, labelled.stderr)
    assert import_module("tasks.stance").main is validation.main
