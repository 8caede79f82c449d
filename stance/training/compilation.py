"""Compile the decoder layers of a policy for a long training.

A step of a 4-bit policy starts some 21 000 operators, and a GPU waits for that. One region per layer is compiled
(`torch.compile`), which all layers share, for texts of any length. Compiling takes longer than a short training.
"""

from typing import Any

import torch
from transformers import TrainerCallback

from stance.config.models import Model
from stance.config.training import Train

ENOUGH = 1500
"""Optimiser steps from which compiling pays: on an H200 it takes 88 s and saves 66 ms a step (docs/performance.md)."""


def worthwhile(model: Model, options: Train, pairs: int) -> bool:
    """Are the layers to be compiled for a training on this many pairs?"""
    if options.compile != "auto":
        return options.compile == "always"
    return model.device == "cuda" and options.num_epoch * pairs / options.global_batch_size >= ENOUGH


class CompileCallback(TrainerCallback):
    """Compiles the layers for the training; a measurement meanwhile runs uncompiled."""

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        """Mark the layers; each is compiled when it is first called."""
        torch._dynamo.config.disable = False  # vLLM's environment, which a fork inherits, disables it
        for layer in layers(kwargs["model"]):
            layer.compile(dynamic=True)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Compile nothing any more: not for the base without its adapter, and not for a model that only evaluates."""
        torch.compiler.set_stance("eager_on_recompile")

    def on_train_end(self, *_: Any, **kwargs: Any) -> None:
        """Give the layers back as they were."""
        for layer in layers(kwargs["model"]):
            layer._compiled_call_impl = None
        torch.compiler.set_stance("default")


def layers(policy: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the decoder layers of a policy."""
    classes = {name for part in policy.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    return [part for part in policy.modules() if type(part).__name__ in classes]
