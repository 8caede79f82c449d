"""Which trainings are compiled, and what of a policy."""

import pytest
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from stance.config.params import Params
from stance.config.profiles import compose
from stance.training.compilation import ENOUGH, layers, worthwhile


@pytest.mark.parametrize(
    ("device", "setting", "pairs", "compiled"),
    [
        ("cuda", "auto", 8 * ENOUGH, True),
        ("cuda", "auto", 8 * ENOUGH - 8, False),
        ("cuda", "never", 8 * ENOUGH, False),
        ("cuda", "always", 8, True),
        ("cpu", "auto", 8 * ENOUGH, False),
    ],
)
def test_only_a_long_training_on_a_gpu_is_compiled(device, setting, pairs, compiled):
    """Each pair is read once, 8 at a time."""
    changes = {"model.device": device, "train.optim": "adamw_torch", "train.num_epoch": 1, "train.compile": setting}
    chosen = Params.model_validate(compose("breeze-7b", changes))
    assert worthwhile(chosen.model, chosen.train, pairs) is compiled


def test_the_layers_are_those_of_the_model_under_the_adapter():
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    policy = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert layers(policy) == list(model.model.layers)
