"""The judge of the chat page is taught in the background, and a folder without data has none."""

import json
from pathlib import Path

import pytest

from stance.chat import judge
from stance.errors import InputError
from stance.evaluation.fitted import Classifier

CORPUS = Path("data/sources/stance/corpus").resolve()
SOURCE = Path("data/sources/live_action").resolve()


def test_it_labels_answers_of_a_chinese_data_set(monkeypatch):
    monkeypatch.setattr(judge, "DATASET", SOURCE)
    classifier: Classifier = judge.start().result(timeout=120)
    question = json.loads((SOURCE / "labelled_data.json").read_text("utf-8"))[0]
    verdicts = classifier.predict([question["prompt"]] * 2, [question["support"], question["oppose"]])
    assert [verdict.stance for verdict in verdicts] == ["support", "oppose"]


def test_without_a_data_set_the_future_holds_the_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(judge.start().exception(timeout=30), InputError)


def test_a_base_model_that_is_too_large_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "DATASET", Path("data/sources/live_action_en").resolve())
    monkeypatch.setattr(judge, "locate", lambda _base: tmp_path)
    monkeypatch.setattr(judge, "fit", lambda *_arguments: pytest.fail("loaded"))
    monkeypatch.setattr(judge, "LARGEST", 9)
    (tmp_path / "model.safetensors").write_bytes(b"0123456789")
    with pytest.raises(InputError, match="too large to load it beside the endpoint"):
        judge.teach()
