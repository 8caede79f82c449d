"""The weights that a training goes back to."""

import pytest
import torch

from stance.training.kept_weights import keep, restore


@pytest.fixture
def model() -> torch.nn.Module:
    """A frozen layer of ones, and a trained one of twos."""
    frozen, trained = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(frozen.weight, 1).requires_grad_(False)
    torch.nn.init.constant_(trained.weight, 2)
    return torch.nn.Sequential(frozen, trained)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_the_trained_weights_are_kept_as_they_were_and_come_back(model, device):
    kept = keep(model, device)
    assert {name: weight.item() for name, weight in kept.items()} == {"1.weight": 2}
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(5)
    restore(model, kept)
    assert [weight.item() for weight in model.parameters()] == [6, 2]
    assert [weight.requires_grad for weight in model.parameters()] == [False, True]


def test_a_copy_lies_where_its_weight_is_unless_a_device_is_named(model):
    elsewhere = model.to("meta")  # stands for a GPU, which most machines lack
    assert keep(elsewhere)["1.weight"].device.type == "meta"
