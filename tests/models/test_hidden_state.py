"""The hidden states of a tiny model, as the classifier reads them."""

import numpy as np
import pytest

from stance.evaluation.hidden_state import ModelReader

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
