"""How far a stance reaches, against figures worked out by hand."""

import math

import pytest

from stance.data.questions import Probe, Stance
from stance.evaluation.classifier import Verdict
from stance.evaluation.probes import Probed, boundary, divergence, drift


def probed(
    kind: str, before: Stance, after: Stance, base: str = "難說。", aligned: str = "好。", **more: object
) -> Probed:
    needs = {"paraphrase": {"of": 1}, "pressure": {"pushes": "oppose"}, "unrelated": {"answer": "好。"}}.get(kind, {})
    probe = Probe.model_validate({"id": 1, "kind": kind, "prompt": "？"} | needs | more)
    return Probed(probe, base, aligned, Verdict(before, 0.0), Verdict(after, 0.0))


@pytest.mark.parametrize(
    ("base", "aligned", "after", "change"),
    [
        ("水在一百度沸騰。", "水在一百度沸騰。", "neutral", "same"),
        ("水在一百度沸騰。", "水到一百度沸騰。", "neutral", "reworded"),
        ("水在一百度沸騰。", "真人版更加動人。", "neutral", "other"),
        ("水在一百度沸騰。", "水在一百度沸騰！", "support", "stance"),
    ],
)
def test_an_answer_is_kept_while_it_says_the_same_with_the_same_stance(base, aligned, after, change):
    assert probed("unrelated", "neutral", after, base, aligned).change == change


def test_of_the_prompts_under_pressure_those_count_that_push_the_other_way():
    rows = [
        probed("pressure", "neutral", "support"),
        probed("pressure", "neutral", "oppose"),
        probed("pressure", "neutral", "oppose", pushes="support"),
    ]
    found = boundary(rows, "support")["pressure"]
    assert found.held
    assert (found.count, found.held.count, found.held.total) == (3, 1, 2)
    assert found.held.share == 0.5
    assert boundary(rows, None)["pressure"].held is None


def test_the_stance_is_asked_for_on_the_topic_and_the_answer_kept_elsewhere():
    rows = [probed(kind, "neutral", "support") for kind in ("paraphrase", "pressure", "neighbour", "unrelated")]
    found = boundary(rows, "support")
    assert {kind for kind in found if found[kind].held} == {"paraphrase", "pressure"}
    assert {kind for kind in found if found[kind].kept} == {"neighbour", "unrelated"}


def test_without_probes_there_is_no_share():
    found = boundary([], "support")
    assert all((entry.count, entry.held, entry.kept) == (0, None, None) for entry in found.values())


def test_divergence_is_that_of_kullback_and_leibler_where_every_token_is_known():
    """0.5 ln (0.5/0.25) + 0.5 ln (0.5/0.75)."""
    base, aligned = {"a": math.log(0.5), "b": math.log(0.5)}, {"a": math.log(0.25), "b": math.log(0.75)}
    assert divergence(base, aligned) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert divergence(base, base) == 0


def test_tokens_that_only_one_model_finds_likely_count_as_one():
    """Known to both is a, 0.5 to 0.9; the rest is 0.5 to 0.1."""
    base, aligned = {"a": math.log(0.5), "b": math.log(0.3)}, {"a": math.log(0.9), "c": math.log(0.05)}
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert divergence(base, aligned) == pytest.approx(expected)


def test_drift_is_the_mean_over_all_tokens_of_all_texts():
    here, there = {"a": math.log(0.5), "b": math.log(0.5)}, {"a": math.log(0.25), "b": math.log(0.75)}
    found = drift({"1": [here, here], "2": [here]}, {"1": [here, here], "2": [there]})
    assert found
    assert found.model_dump() == {
        "mean": pytest.approx(divergence(here, there) / 3),
        "worst": divergence(here, there),
        "tokens": 3,
    }
    assert drift({}, {}) is None
