"""Loading of a model's weights as the block `model` says: on which device, and in 4 bits or in bf16."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stance.config.models import Model
from stance.errors import InputError
from stance.machine.memory import GIB

BF16_FROM = (8, 0)
"""The first compute capability with bf16."""
ENGINE = 3 * GIB
"""Bytes of GPU memory that vLLM takes beside weights and cache (docs/performance.md)."""


def require_device(model: Model) -> None:
    """Refuse `device: cuda` on a machine without a suitable GPU, before anything is loaded.

    Raises:
        InputError: There is no GPU, or it has no bf16.
    """
    if model.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "model.device is cuda and torch finds no GPU here; run on a machine with one, or use a profile for a CPU "
            "(`make profile NAME=smollm2-135m`)"
        )
    if model.device == "cuda" and torch.cuda.get_device_capability() < BF16_FROM:
        raise InputError(
            f"{torch.cuda.get_device_name()} has no bf16, which training and answers need; use a GPU of compute "
            "capability 8.0 or later (A10, A100, RTX 30 and newer)"
        )


def nf4() -> BitsAndBytesConfig:
    """Return the 4-bit format of QLoRA (arXiv 2305.14314): NF4, double quantisation, bf16 compute."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def quantization_config(model: Model) -> BitsAndBytesConfig | None:
    """Return the quantisation of the base during training; None for bf16."""
    return nf4() if model.quantization == "nf4" else None


def load(folder: Path, device: str, quantization: BitsAndBytesConfig | None = None) -> PreTrainedModel:
    """Load a causal language model from a folder. Weights that are not quantised are in bf16."""
    return AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.bfloat16, device_map={"": device}, quantization_config=quantization
    )


def configuration(folder: Path) -> PretrainedConfig:
    """Return the configuration in a folder.

    Raises:
        InputError: transformers does not know the model.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(str(folder))
    except (ValueError, OSError) as error:
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


def adapted_layers(model: PreTrainedModel, targets: Sequence[str] | Literal["all-linear"]) -> dict[str, nn.Linear]:
    """Return the layers that get an adapter, by name, as PEFT chooses them.

    PEFT passes over a name that no layer has, and puts adapters on layers that the merge cannot change. Both are
    refused.

    Args:
        model: The model, or its outline.
        targets: `train.target_modules`.

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
            f"train.target_modules names {', '.join(lost)}, which a {kind} does not have; choose from {names}, or set "
            "it to all-linear"
        )
    if unfit := [target for target, fitting in chosen.items() if not layers.keys() >= set(fitting)]:
        raise InputError(
            f"train.target_modules names {', '.join(unfit)}, and an adapter can only be merged into the linear layers "
            f"between embeddings and head; choose from {names}, or set it to all-linear"
        )
    return {name: layers[name] for fitting in chosen.values() for name in fitting}
