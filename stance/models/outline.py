"""The outline of a model: its layers and their sizes, from its configuration and without its weights.

In: the folder of a model. Out: a model on the meta device, and the names and shapes of its layers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stance.data.chat import OWN_CODE
from stance.errors import InputError


def configuration(folder: Path) -> PretrainedConfig:
    """Return the configuration in a folder.

    Raises:
        InputError: transformers does not know the model.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (ValueError, OSError) as error:
        if "custom code" in str(error):
            raise InputError(f"{folder} {OWN_CODE}") from None
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder / 'config.json'} describes no model that transformers knows ({reason}); choose another"
        ) from None
    return config


def outline(config: PretrainedConfig) -> PreTrainedModel:
    """Return the model of a configuration on the meta device, which holds no weights.

    Raises:
        InputError: It is no causal language model.
    """
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except ValueError:
        raise InputError(f"{config.model_type} is no causal language model; choose one that generates text") from None
    return model


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Return the layers that are 4-bit in training, by name: all linear layers but the head."""
    head = model.get_output_embeddings()
    modules = model.named_modules()
    return {name: module for name, module in modules if isinstance(module, nn.Linear) and module is not head}


def embedding_shape(model: PreTrainedModel) -> tuple[int, int]:
    """Return the rows of a model's embeddings, one per token, and their width."""
    rows, width = cast(nn.Embedding, model.get_input_embeddings()).weight.shape
    return rows, width


def adapted_layers(
    model: PreTrainedModel, targets: Sequence[str] | Literal["all-linear"], block: str = "train"
) -> dict[str, nn.Linear]:
    """Return the layers that get an adapter, by name, as PEFT chooses them.

    PEFT passes over a name that no layer has, and puts adapters on layers that the merge cannot change. Both are
    refused.

    Args:
        model: The model, or its outline.
        targets: The value of `target_modules`.
        block: The block of the parameters that it stands in, for an error.

    Raises:
        InputError: A name fits no layer, or a layer that is not linear, or the head.
    """
    layers, modules = linear_layers(model), dict(model.named_modules())
    kind = model.config.model_type
    if targets == "all-linear":
        if not layers or any(isinstance(module, Conv1D) for module in modules.values()):
            raise InputError(
                f"the layers of a {kind} are no linear layers of torch, so that an adapter cannot be merged into them; "
                "choose another model"
            )
        return layers
    chosen = {target: [name for name in modules if f".{name}".endswith(f".{target}")] for target in targets}
    names = ", ".join(sorted({name.rpartition(".")[2] for name in layers})) or "none"
    if lost := [target for target, fitting in chosen.items() if not fitting]:
        raise InputError(
            f"{block}.target_modules names {', '.join(lost)}, which a {kind} does not have; choose from {names}, or "
            "set it to all-linear"
        )
    if unfit := [target for target, fitting in chosen.items() if not layers.keys() >= set(fitting)]:
        raise InputError(
            f"{block}.target_modules names {', '.join(unfit)}, and an adapter can only be merged into the linear "
            f"layers between embeddings and head; choose from {names}, or set it to all-linear"
        )
    return {name: layers[name] for fitting in chosen.values() for name in fitting}
