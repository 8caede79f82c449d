"""The change of the base by an adapter: all factors or none."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stance.errors import InputError
from stance.training.merging import update

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


def adapter(folder: Path, *others: str) -> Path:
    """Write an adapter with the factors of one layer, and with other tensors."""
    names = (f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight", *others)
    save_file({name: torch.zeros(2, 2) for name in names}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    return folder


def test_the_factors_of_a_linear_layer_are_taken(tmp_path):
    change = update("original", Path("unread"), adapter(tmp_path))
    assert set(change.factors) == {"model.layers.0.self_attn.q_proj.weight"}
    assert change.scale == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_that_holds_no_numbers_is_refused(value, tmp_path):
    save_file(
        {f"{LAYER}.lora_A.weight": torch.full((2, 2), value), f"{LAYER}.lora_B.weight": torch.zeros(2, 2)},
        adapter(tmp_path) / "adapter_model.safetensors",
    )
    with pytest.raises(InputError, match=r"lora_A\.weight that are no numbers: .* lower train\.learning_rate"):
        update("original", Path("unread"), tmp_path)


@pytest.mark.parametrize("option", [{"use_rslora": True}, {"rank_pattern": {"q_proj": 4}}, {"alpha_pattern": {"q": 1}}])
def test_an_adapter_with_another_scale_is_not_merged_with_the_usual_one(option, tmp_path):
    (adapter(tmp_path) / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4} | option))
    with pytest.raises(InputError, match=f"sets {next(iter(option))}, and the merge knows only lora_alpha / r"):
        update("original", Path("unread"), tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.lm_head.modules_to_save.weight",
        f"{LAYER}.lora_magnitude_vector.weight",
        f"{LAYER}.lora_B.bias",
    ],
)
def test_an_adapter_of_which_the_merge_would_leave_a_part_out_is_refused(other, tmp_path):
    with pytest.raises(InputError, match=f"holds {other}, which is no factor of a linear layer"):
        update("original", Path("unread"), adapter(tmp_path, other))
