"""Drift between two copies of a model, on numbers worked out by hand."""

from pathlib import Path

import pytest
import torch

from stance.data.noise import MERGED, SERVED, Floor
from stance.models.loading import arithmetic, load, nf4
from stance.models.parity import Scores, drift, floor, score


def test_drift_is_the_mean_and_the_worst_absolute_difference():
    """Differences 0.1, 0.3 and 0.2: mean 0.2, worst 0.3, three tokens."""
    first = [Scores([-1.0, -2.0], [5, 6], [1.0, 1.0]), Scores([-3.0], [7], [1.0])]
    second = [Scores([-1.1, -1.7], [5, 6], [1.0, 1.0]), Scores([-3.2], [7], [1.0])]
    found = drift(first, second, bound=0.5)
    assert (found.mean, found.worst, found.top_flips, found.tokens) == (pytest.approx(0.2), pytest.approx(0.3), 0, 3)


def test_another_choice_counts_only_beyond_the_bound():
    """Leads of 0.1 and 0.9 nats; both copies choose otherwise, and only the clear lead is an error."""
    first = [Scores([-1.0, -1.0], [5, 5], [0.1, 0.9])]
    second = [Scores([-1.0, -1.0], [6, 6], [0.1, 0.9])]
    assert drift(first, second, bound=0.5).top_flips == 1


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="no answer tokens"):
        drift([], [], bound=0.5)


def test_texts_that_differ_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        drift([Scores([-1.0], [5], [1.0])], [], bound=0.5)


@pytest.mark.parametrize("products", [True, False])
def test_a_cpu_without_products_of_bf16_computes_in_float32(products: bool, tiny_model: Path, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: products)
    assert arithmetic("cuda") == torch.bfloat16
    assert load(tiny_model, "cpu").dtype == arithmetic("cpu") == (torch.bfloat16 if products else torch.float32)
    assert nf4("cpu").bnb_4bit_compute_dtype == arithmetic("cpu")


def test_the_floor_is_the_same_whether_the_model_computes_in_bf16_or_in_float32(tiny_model: Path):
    """A float32 model is rounded to bf16; the products are then made in float32 and rounded, as bf16 hardware does."""
    texts = [([1, 20, 30], [40, 50, 3, 9]), ([1, 9], [8, 7, 6, 5]), ([1, 2, 3, 4], [60, 61, 62, 63, 64])]
    narrow, wide = load(tiny_model, "cpu").bfloat16(), load(tiny_model, "cpu").float()
    weights = {name: weight.clone() for name, weight in narrow.state_dict().items()}
    direct, through = (floor(model, texts, score(model, texts)) for model in (narrow, wide))
    assert through.mean == pytest.approx(direct.mean, rel=0.1)
    assert through.worst == pytest.approx(direct.worst, rel=0.25)
    assert all(weight.equal(weights[name]) for name, weight in wide.state_dict().items())


def test_the_floor_is_the_distance_from_float32_arithmetic_and_leaves_the_weights_as_they_were(tiny_model: Path):
    texts = [([1, 20, 30], [40, 50]), ([1, 9], [8, 7, 6, 5])]
    model = load(tiny_model, "cpu").bfloat16()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    scores = score(model, texts)
    exact = drift(score(load(tiny_model, "cpu").float(), texts), scores, bound=0)
    found = floor(model, texts, scores)
    assert (found.mean, found.worst) == (pytest.approx(exact.mean, rel=1e-3), pytest.approx(exact.worst, rel=1e-3))
    assert found.mean > 0
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())
    assert score(model, texts) == scores


def test_bounds_count_the_roundings_between_two_copies():
    assert Floor(mean=0.1, worst=0.5).bounds(MERGED) == (pytest.approx(0.3), pytest.approx(3.0))
    assert Floor(mean=0.1, worst=0.5).bounds(SERVED) == (pytest.approx(0.2), pytest.approx(2.0))


def test_scores_equal_an_unpadded_forward_token_by_token(tiny_model: Path):
    texts = [([1, 20, 30], [40, 50]), ([1, 9], [8, 7, 6, 5])]
    model = load(tiny_model, "cpu").eval()
    for scores, (prompt, answer) in zip(score(model, texts), texts, strict=True):
        with torch.no_grad():
            logps = model(torch.tensor([prompt + answer])).logits[0].float().log_softmax(-1)
        for position, token in enumerate(answer):
            row = logps[len(prompt) + position - 1]
            assert scores.logps[position] == pytest.approx(float(row[token]), abs=0.02)
            assert scores.gap[position] == pytest.approx(float(row.max() - row.sort().values[-2]), abs=0.04)
