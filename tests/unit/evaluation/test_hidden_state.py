"""The classifier by hidden states, on states made by hand."""

import numpy as np
import pytest

from stance.data.questions import Question
from stance.evaluation.classifier import STANCES, Labelled, labelled_answers
from stance.evaluation.hidden_state import Choice, HiddenStateClassifier, Lessons, candidate_layers
from tests.builders.taught import kept

WIDTH = 6


class ToyReader:
    """Reads a stance out of a word; in the layer at place 1 it stands out, in the others there is noise."""

    layers = (1, 2, 3)

    def states(self, prompts, responses):
        rows = np.random.default_rng(0).normal(size=(len(responses), len(self.layers), WIDTH))
        for row, response in zip(rows, responses, strict=True):
            row[1, [place for place, word in enumerate(("bad", "mixed", "good")) if word in response]] += 8
        return rows.astype(np.float32)


def questions(count):
    return [
        Question(id=n, prompt=f"Is {n}?", support=f"It is good {n}.", oppose=f"It is bad {n}.", neutral=f"A mixed {n}.")
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def fitted():
    corpus = [
        Labelled(topic="zoos", prompt="Zoos?", response=f"So {word}.", stance=stance, kind="plain")
        for stance, word in zip(STANCES, ("bad", "mixed", "good"), strict=True)
    ]
    return HiddenStateClassifier.fit(ToyReader(), labelled_answers(questions(20)), corpus)


def test_the_layer_is_the_one_from_which_left_out_questions_are_judged_best(fitted):
    classifier, left_out = fitted
    assert classifier.place == 1
    assert [verdict.stance for verdict in left_out[:60]] == [row.stance for row in labelled_answers(questions(20))]


def test_verdicts_follow_the_states(fitted):
    verdicts = fitted[0].predict(["New?"] * 3, ["All good here.", "Rather bad.", "A mixed bag."])
    assert [verdict.stance for verdict in verdicts] == ["support", "oppose", "neutral"]
    assert verdicts[0].score > verdicts[2].score > verdicts[1].score
    assert verdicts[0].score > 0 > verdicts[1].score


@pytest.mark.parametrize(
    "response", ["", "?!", "good good good good good", "so good and good, so good and good, so good"]
)
def test_broken_text_is_neutral_with_score_zero(fitted, response):
    assert fitted[0].predict(["New?"], [response]) == [("neutral", 0.0)]


def test_no_answers_give_no_verdicts(fitted):
    assert fitted[0].predict([], []) == []


def test_a_classifier_that_was_read_gives_the_same_chances_to_the_last_bit(fitted, tmp_path):
    """For one answer and for several, whose products are computed in another order."""
    read = kept(fitted[0], lambda folder: HiddenStateClassifier.read(folder, ToyReader()), tmp_path)
    assert read.place == fitted[0].place
    states = np.random.default_rng(1).normal(size=(50, WIDTH)).astype(np.float32)
    for some in (states, states[:7], states[:1]):
        before, after = (judge._probe.predict_proba(some) for judge in (fitted[0], read))
        assert before.tobytes() == after.tobytes()


def test_a_classifier_without_neutral_answers_is_kept_with_the_two_stances_that_it_knows(tmp_path):
    rows = [row for row in labelled_answers(questions(20)) if row.stance != "neutral"]
    judge, _ = HiddenStateClassifier.fit(ToyReader(), rows, [])
    read = kept(judge, lambda folder: HiddenStateClassifier.read(folder, ToyReader()), tmp_path)
    asked = ["New?"] * 2, ["All good here.", "Rather bad."]
    assert read.predict(*asked) == judge.predict(*asked)
    assert [verdict.stance for verdict in read.predict(*asked)] == ["support", "oppose"]


def test_answers_of_one_group_are_left_out_together():
    """Each group has a direction of its own; who has seen the group would judge it right, who has not guesses."""
    states = np.zeros((4, 1, 2), dtype=np.float32)
    states[:, 0] = [[5, 0], [-5, 0], [-5, 0], [5, 0]]
    lessons = Lessons(states, ["support", "oppose", "support", "oppose"], ["a", "a", "b", "b"], 4)
    assert lessons.accuracy(lessons.left_out(Choice(0, 1.0))) == 0.0


def test_data_set_and_other_topics_count_the_same_in_the_choice():
    lessons = Lessons(np.zeros((3, 1, 2), np.float32), ["support", "support", "oppose"], ["a", "b", "c"], 2)
    chances = np.array([[0, 0, 1.0], [0, 0, 1.0], [0, 0, 1.0]])
    assert lessons.accuracy(chances) == 0.5


@pytest.mark.parametrize(("depth", "layers"), [(30, [12, 15, 18]), (4, [2]), (1, [1])])
def test_candidate_layers_are_in_the_middle_of_the_model(depth, layers):
    assert candidate_layers(depth) == layers
