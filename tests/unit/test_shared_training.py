"""The arithmetic of several adapters in one batch; tests/soak/test_benchmarks.py runs the benchmark as a whole."""

from decimal import Decimal

import pytest
import torch

from benchmarks.shared_adapters import Adapters, clip, distance, joined
from benchmarks.shared_training import plans, sizes, within

RUNS, ROWS, TOKENS, WIDTH, RANK = 3, 2, 5, 8, 4


def layer(a: torch.Tensor, b: torch.Tensor, base: torch.nn.Module) -> Adapters:
    found = Adapters(base, scale=0.25)
    found.a, found.b = torch.nn.Parameter(a), torch.nn.Parameter(b)
    return found


def test_every_part_of_the_rows_goes_through_its_own_adapter():
    """Row by row W x + s B A x, and gradients of one run that no other run touches."""
    torch.manual_seed(0)
    base = torch.nn.Linear(WIDTH, 6, dtype=torch.float64)
    a, b = torch.randn(RUNS, RANK, WIDTH).double(), torch.randn(RUNS, 6, RANK).double()
    rows = torch.randn(RUNS * ROWS, TOKENS, WIDTH).double()
    shared = layer(a, b, base)
    found = shared(rows)
    for place, row in enumerate(rows):
        run = place // ROWS
        expected = base(row) + 0.25 * (row @ a[run].T @ b[run].T)
        torch.testing.assert_close(found[place], expected)
    found[ROWS : 2 * ROWS].sum().backward()
    assert shared.a.grad is not None
    assert shared.a.grad[1].abs().min() > 0
    assert shared.a.grad[[0, 2]].abs().max() == 0


def test_gradients_are_clipped_run_by_run_as_torch_clips_one():
    """The first run has the norm sqrt(9 + 16) = 5 over both weights and is scaled by 1/5; the second one stays."""
    gradients = [torch.tensor([[[3.0, 0.0]], [[0.3, 0.0]]]), torch.tensor([[[0.0], [4.0]], [[0.0], [0.4]]])]
    alone = [torch.nn.Parameter(torch.zeros_like(gradient[0])) for gradient in gradients]
    for parameter, gradient in zip(alone, gradients, strict=True):
        parameter.grad = gradient[0].clone()
    torch.nn.utils.clip_grad_norm_(alone, 1.0)
    clip(gradients, 1.0)
    assert gradients[0][0, 0, 0] == pytest.approx(3 / 5, rel=1e-6)
    assert [gradient[0].tolist() for gradient in gradients] == [weight.grad.tolist() for weight in alone]  # type: ignore[union-attr]
    assert gradients[0][1, 0, 0] == pytest.approx(0.3)
    assert gradients[1][1, 1, 0] == pytest.approx(0.4)


def batch(tokens: int, first: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(first, first + 4 * tokens).view(4, tokens)
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": torch.ones_like(ids)}
    return found | {"ref_chosen_logps": torch.tensor([-1.0, -2.0]), "ref_rejected_logps": torch.tensor([-3.0, -4.0])}


def test_batches_are_joined_run_by_run_and_padded_to_the_longest():
    found = joined([batch(3, 0), batch(5, 100)], "cpu", multiple=4)
    assert found["input_ids"].shape == (2, 2, 2, 8)  # runs, chosen and rejected, pairs, 5 tokens padded to 8
    assert found["input_ids"][0, 1, 0].tolist() == [6, 7, 8, 0, 0, 0, 0, 0]  # the first rejected text of the first run
    assert found["attention_mask"].sum((1, 2, 3)).tolist() == [12, 20]
    assert found["reference"][1].tolist() == [[-1, -2], [-3, -4]]


def test_a_distance_is_that_of_the_changes_and_not_of_the_factors():
    """B A = 2 x 3 against 2 x 3.3 is a tenth off; 3 x 2 is the same change by other factors."""
    one, other, same = (
        {"layer": (torch.full((1, 1, 1), a), torch.full((1, 1, 1), b))} for a, b in ((3.0, 2.0), (3.3, 2.0), (2.0, 3.0))
    )
    assert distance(one, other, torch.device("cpu")) == pytest.approx(0.1)
    assert distance(one, same, torch.device("cpu")) == 0


def test_the_furthest_run_decides_whether_a_way_is_within_the_noise():
    apart = {
        "shared": [{"update": 0.1, "loss": 0.01}, {"update": 0.3, "loss": 0.02}],
        "padded": [{"update": 0.2, "loss": 0.01}, {"update": 0.2, "loss": 0.02}],
        "split": [{"update": 0.1, "loss": 0.01}, {"update": 0.29, "loss": 0.01}],
    }
    assert within(apart, "shared") == {"update": False, "loss": True}


def test_the_runs_are_a_grid_of_ratios_seeds_and_folds():
    assert plans(3) == [(Decimal(1), 42, 0), (Decimal("0.5"), 43, 10), (Decimal(0), 44, 20)]
    assert plans(1) == [(Decimal(1), 42, 0)]
    assert (sizes(4), sizes(2), sizes(5)) == ([2, 4], [2], [2, 4, 5])
