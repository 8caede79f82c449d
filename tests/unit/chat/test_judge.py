"""The judge of the chat page is the one that this folder's run has taught, and a folder without one has none."""

from pathlib import Path

import pytest

from stance.chat import judge
from stance.data.metrics import ACCURACY, CLASSIFIER
from stance.data.questions import read_questions
from stance.errors import InputError
from stance.evaluation.accuracy import accuracy_of
from tests.builders.taught import write_classifier

SOURCE = Path("data/sources/live_action").resolve()


def test_it_labels_answers_of_a_chinese_data_set(tmp_path, monkeypatch):
    write_classifier(SOURCE, tmp_path / CLASSIFIER)
    monkeypatch.chdir(tmp_path)
    question = read_questions(SOURCE)[0]
    verdicts = judge.read().predict([question.prompt] * 2, [question.support, question.oppose])
    assert [verdict.stance for verdict in verdicts] == ["support", "oppose"]


def test_without_a_run_it_says_what_is_missing_and_what_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"data/classifier/accuracy\.json does not exist; .*`make repro` first"):
        judge.read()


def test_a_base_model_that_is_too_large_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    accuracy_of("hidden_state", 12, [("support", "support")]).write(CLASSIFIER / ACCURACY)
    monkeypatch.setattr(judge, "locate", lambda _base: tmp_path)
    monkeypatch.setattr(judge, "read_classifier", lambda *_arguments: pytest.fail("loaded"))
    monkeypatch.setattr(judge, "LARGEST", 9)
    (tmp_path / "model.safetensors").write_bytes(b"0123456789")
    with pytest.raises(InputError, match="too large to load it beside the endpoint"):
        judge.read()
