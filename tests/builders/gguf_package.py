"""An installed Python package that holds a tiny chat model in a GGUF file, as llama.cpp's converter writes it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from stance.config.models import PackageBase
from stance.machine.files import digest

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("h e", "l l", "he ll")
TOKENS = (*SPECIAL, *bytes_to_unicode().values(), "he", "ll", "hell")
CONTROL, NORMAL = 3, 1
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""GGUF's name of every kind of layer."""


def tiny_llama() -> LlamaForCausalLM:
    """Return a Llama of random fp32 weights, tied embeddings, and the special tokens of SmolLM2."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


def permuted(name: str, weights: np.ndarray, config: LlamaConfig) -> np.ndarray:
    """Return the weights with the rows of queries and keys in llama.cpp's order of the rotary halves."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name)
    if heads is None:
        return weights
    return weights.reshape(heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    template: str | None = CHATML,
) -> None:
    """Write a model and its tokenizer; matrices are quantised to `kind`, norms stay in fp32."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.license", "apache-2.0")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(list(TOKENS))
    writer.add_token_types([CONTROL] * len(SPECIAL) + [NORMAL] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    if template:
        writer.add_chat_template(template)
    for name, weights in model.state_dict().items():
        if name != "lm_head.weight":  # tied
            _add(writer, name.removesuffix(".weight"), weights.float().numpy(), config, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: GGUFWriter, name: str, weights: np.ndarray, config: LlamaConfig, kind: GGMLQuantizationType) -> None:
    if name.startswith("model.layers."):
        _, _, layer, part = name.split(".", 3)
        short, full = NAMES[part], f"blk.{layer}.{NAMES[part]}.weight"
    else:
        short, full = NAMES[name], f"{NAMES[name]}.weight"
    weights = permuted(short, weights, config)
    if weights.ndim == 1 or kind == GGMLQuantizationType.F32:
        writer.add_tensor(full, weights)
    else:
        writer.add_tensor(full, quantize(weights, kind), raw_dtype=kind)


def write_package(site: Path, **gguf: Any) -> PackageBase:
    """Install package `tiny-chat` 1.0 into `site`, a folder on `sys.path`, and return the block that names its file.

    Args:
        site: Receives the package and its metadata. An import of the package fails.
        gguf: Arguments of `write_gguf`.
    """
    package, metadata = site / "tiny_chat", site / "tiny_chat-1.0.dist-info"
    package.mkdir(parents=True)
    metadata.mkdir()
    (package / "__init__.py").write_text("raise ImportError('the package must not be imported')\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.2\nName: tiny-chat\nVersion: 1.0\nRequires-Dist: no-such\n")
    write_gguf(package / "tiny.gguf", **{"model": tiny_llama(), **gguf})
    return PackageBase(
        source="package",
        distribution="tiny-chat",
        version="1.0",
        file="tiny_chat/tiny.gguf",
        sha256=digest(package / "tiny.gguf").sha256,
        original="somebody/tiny",
    )
