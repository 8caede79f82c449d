"""The trained weights of a model as they were at a step, so that a training that is stopped can go back to them."""

import torch

Weights = dict[str, torch.Tensor]
"""Weights by their names."""


def keep(model: torch.nn.Module, device: str | None = None) -> Weights:
    """Return a copy of the weights that are trained, on a device; None for the one that each weight is on."""
    trained = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
    return {name: weight.detach().to(device, copy=True) for name, weight in trained}


@torch.no_grad()
def restore(model: torch.nn.Module, weights: Weights) -> None:
    """Give a model the weights that `keep` has returned."""
    parameters = dict(model.named_parameters())
    for name, weight in weights.items():
        parameters[name].copy_(weight)
