"""Which layers an adapter may be put on, and what a model takes, from the outlines of well-known families."""

import pytest
from transformers import (
    BloomConfig,
    FalconConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
)

from stance.errors import InputError
from stance.inference.batch import cache_bytes_per_token
from stance.models.outline import adapted_layers, outline
from stance.preflight.sizes import sizes
from tests.builders.small_run import params

SIZES = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
INSIDE = {"intermediate_size": 128, "num_key_value_heads": 1}
MISTRAL = MistralConfig(**SIZES, **INSIDE)
# Falcon, BLOOM and GPT-2 name neither `intermediate_size` nor `num_key_value_heads`; GPT-NeoX and OPT not the latter.
LINEAR: dict[str, tuple[PretrainedConfig, str, int, int]] = {
    "Mistral": (MISTRAL, "down_proj", 128, 512),
    "Llama": (LlamaConfig(**SIZES, **INSIDE), "down_proj", 128, 512),
    "Qwen2": (Qwen2Config(**SIZES, **INSIDE), "down_proj", 128, 512),
    "Gemma": (GemmaConfig(**SIZES, **INSIDE, head_dim=32), "down_proj", 128, 512),
    "Phi-3, whose layers are fused": (
        Phi3Config(**SIZES, **INSIDE, pad_token_id=0), "gate_up_proj", 128, 320,
    ),
    "Falcon": (FalconConfig(**SIZES), "query_key_value", 256, 448),
    "BLOOM": (BloomConfig(vocab_size=320, hidden_size=64, n_layer=2, n_head=2), "query_key_value", 256, 448),
    "GPT-NeoX": (GPTNeoXConfig(**SIZES, intermediate_size=128), "query_key_value", 128, 320),
    "OPT": (
        OPTConfig(**SIZES, ffn_dim=128, word_embed_proj_dim=64, max_position_embeddings=64), "fc2", 128, 448,
    ),
}  # fmt: skip
"""Configuration, a layer, its width inside, and the sum of the input widths of all linear layers in a block.

Mistral has six layers that read 64 values and one that reads 128."""


@pytest.mark.parametrize("name", LINEAR)
def test_layers_of_every_family_are_found_by_name_and_its_sizes_from_its_outline(name, tiny_model):
    config, layer, inside, inputs = LINEAR[name]
    model = outline(config)
    assert len(adapted_layers(model, [layer])) == 2
    assert set(adapted_layers(model, [layer])) < set(adapted_layers(model, "all-linear"))
    size = sizes(config, params(tiny_model).train)
    block = 2 * inputs + 2 * (3 * inside + 4 * 64) + 4 * 2 * 64  # bf16, but the inputs of two norms in fp32
    assert size.kept == 2 * block + block  # two blocks, and the gradients of one
    assert size.linear + size.other == model.num_parameters()


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (
            ["q_proj", "gate_up_proj"],
            r"names gate_up_proj, which a mistral does not have; choose from down_proj, ",
        ),
        (["qproj"], r"names qproj, which a mistral does not have; .* or set it to all-linear"),
        (["c_attn", "q_proj", "wte"], r"names c_attn, wte, which a mistral does not have"),
        (["q_proj", "embed_tokens"], r"names embed_tokens, and an adapter can only be merged into the linear layers"),
        (["lm_head"], r"names lm_head, and an adapter can only be merged"),
        (["self_attn"], r"names self_attn, and an adapter can only be merged"),
        (["input_layernorm"], r"names input_layernorm, and an adapter can only be merged"),
    ],
)
def test_a_name_that_peft_would_pass_over_or_the_merge_leave_out_is_refused(targets, expected):
    with pytest.raises(InputError, match=expected):
        adapted_layers(outline(MISTRAL), targets)


def test_a_name_with_its_block_is_understood_as_peft_does():
    assert set(adapted_layers(outline(MISTRAL), ["self_attn.q_proj"])) == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
    }


@pytest.mark.parametrize(
    ("targets", "expected"),
    [("all-linear", "are no linear layers of torch"), (["c_proj"], "names c_proj, and .* choose from none")],
)
def test_gpt_2_whose_weights_are_transposed_is_refused(targets, expected):
    config = GPT2Config(vocab_size=320, n_embd=64, n_layer=2, n_head=2)
    with pytest.raises(InputError, match=expected):
        adapted_layers(outline(config), targets)


@pytest.mark.parametrize(
    ("name", "heads"), [("Mistral", 1), ("Phi-3, whose layers are fused", 1), ("Falcon", 2), ("OPT", 2)]
)
def test_a_token_of_the_cache_is_measured_in_every_family(name, heads, tmp_path):
    config, _, _, _ = LINEAR[name]
    config.save_pretrained(tmp_path)
    assert cache_bytes_per_token(tmp_path) == 2 * 2 * 2 * heads * 32
