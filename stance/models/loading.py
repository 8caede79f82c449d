"""Loading of a model's weights as the block `model` says: on which device, in 4 bits or whole, in which arithmetic."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

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


def require_devices(model: Model) -> None:
    """Refuse more GPUs than there are.

    Raises:
        InputError: This process may use fewer than `model.devices`.
    """
    there = torch.cuda.device_count()
    if model.device == "cuda" and there < model.devices:
        raise InputError(
            f"model.devices is {model.devices} and torch finds {there} GPU{'s' * (there != 1)} here; set it to "
            f"{max(1, there)}, or take a machine with more GPUs (CUDA_VISIBLE_DEVICES may hide some)"
        )


def arithmetic(device: str) -> torch.dtype:
    """Return the type that models compute in on a device: bf16, or float32 on a CPU that has no products of bf16.

    A CPU with AVX2 and without AVX-512, as most laptops have, takes five times as long for bf16 (docs/smollm2.md).
    float32 holds every bf16 weight exactly.
    """
    emulated = device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.float32 if emulated else torch.bfloat16


def nf4(device: str) -> BitsAndBytesConfig:
    """Return the 4-bit format of QLoRA (arXiv 2305.14314): NF4, double quantisation, products in `arithmetic`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=arithmetic(device),
    )


def quantization_config(model: Model) -> BitsAndBytesConfig | None:
    """Return the quantisation of the base during training; None for whole weights."""
    return nf4(model.device) if model.quantization == "nf4" else None


def load(
    folder: Path, device: str, quantization: BitsAndBytesConfig | None = None, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Load a causal language model from a folder.

    Weights that are not quantised are in `dtype`, by default in that of `arithmetic`.
    """
    return AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype or arithmetic(device), device_map={"": device}, quantization_config=quantization
    )
