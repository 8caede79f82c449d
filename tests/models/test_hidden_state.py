"""The hidden states of a tiny model, as the classifier reads them, and the classifier that the stage keeps."""

from pathlib import Path

import numpy as np
import pytest

from stance.data.metrics import ACCURACY, ClassifierAccuracy
from stance.data.questions import read_questions
from stance.evaluation.classifier import labelled_answers
from stance.evaluation.fitted import fit, judged, read_classifier
from stance.evaluation.hidden_state import ModelReader
from tasks.base import base
from tasks.classifier import classifier
from tests.builders.small_run import params

PROMPTS = ["真人化好嗎？", "Is it good?", "好嗎？"]
RESPONSES = ["很好。", "It is good, and it is a rather long answer.", ""]


@pytest.fixture(scope="module")
def reader(tiny_model) -> ModelReader:
    return ModelReader(tiny_model, "cpu")


def test_the_same_answers_give_the_same_bytes(reader, tiny_model):
    first, second = (each.states(PROMPTS, RESPONSES) for each in (reader, ModelReader(tiny_model, "cpu")))
    assert first.tobytes() == second.tobytes()
    assert first.shape[:2] == (3, len(reader.layers))
    assert np.isfinite(first).all()


def test_an_answer_is_read_alone_as_it_is_in_a_batch(reader):
    batch = reader.states(PROMPTS, RESPONSES)
    alone = [reader.states([prompt], [response])[0] for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    assert np.allclose(batch, alone, atol=1e-4)


def test_layers_above_the_deepest_candidate_are_not_loaded(reader):
    assert len(reader._model.layers) <= reader.layers[-1] + 1


def test_the_stage_keeps_the_classifier_that_was_taught_to_the_last_bit(reader, tiny_model, tmp_path):
    """English, of which no answers about other topics are in the empty folder."""
    chosen, english = params(tiny_model), Path("data/sources/live_action_en")
    base(chosen.base, chosen.model.system_prompt, chosen.seed, english, tmp_path / "base")
    folders = (tmp_path / "nothing", tmp_path / "base")
    classifier("cpu", english, *folders, tmp_path / "classifier")
    taught = fit(read_questions(english), *folders, "cpu")
    read = read_classifier(tmp_path / "classifier", tmp_path / "base", "cpu")
    rows = labelled_answers(read_questions(english))
    states = reader.states([row.prompt for row in rows], [row.response for row in rows])[:, read.place]
    for some in (states, states[:1]):
        before, after = (judge._probe.predict_proba(some) for judge in (taught.classifier, read))
        assert before.tobytes() == after.tobytes()
    assert judged(read, rows) == judged(taught.classifier, rows)
    accuracy = ClassifierAccuracy.read(tmp_path / "classifier" / ACCURACY)
    assert (accuracy.classifier, accuracy.layer) == ("hidden_state", taught.layer)
    assert accuracy == taught.accuracy()
