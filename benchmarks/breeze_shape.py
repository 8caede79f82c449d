"""A model of Breeze-7B-Instruct's exact shape with random weights: it loads, trains, merges and answers at true speed.

    python -m benchmarks.breeze_shape FOLDER           # 7.487 B parameters, 15 GB, on a GPU in half a minute
    python -m benchmarks.breeze_shape FOLDER --llama   # Llama-3-8B-Instruct's: 8.030 B, and its chat format
    python -m benchmarks.breeze_shape FOLDER --small   # the same layers, narrow and few, for a CPU

Only what the answers mean is missing. The layers' outputs are scaled down with the depth, as GPT-2's are (a network of
plain random layers is chaotic: rounding alone would change what it says), and the head never favours the end of an
answer, so that every answer has its full length. The tokenizer is trained on our own questions and filled up to
the model's number of ids; it splits Chinese into characters, so texts are somewhat longer than Breeze's own.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from stance.data.questions import read_questions
from stance.training.miniature import make_tokenizer

QUESTIONS = Path("data/sources/live_action")

# config.json of MediaTek-Research/Breeze-7B-Instruct-v0_1
BREEZE: dict[str, Any] = {
    "vocab_size": 61952,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
# config.json of meta-llama/Meta-Llama-3-8B-Instruct
LLAMA: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
# The format that Llama 3's model card describes: a header with the role, the text, an end of turn.
LLAMA_TURNS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}"
    "<|start_header_id|>{{ turn['role'] }}<|end_header_id|>\n\n{{ turn['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SMALL = {
    "vocab_size": 1984,
    "hidden_size": 128,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}


def write(folder: Path, shape: dict[str, Any], shard: str = "5GB", seed: int = 0, llama: bool = False) -> None:
    """Write a chat model of a shape to a folder as `save_pretrained` does, in bf16, on the GPU where there is one."""
    tokenizer = make_tokenizer(read_questions(QUESTIONS), 2000, "回覆請少於20字")
    if llama:
        tokenizer.add_special_tokens({"eos_token": LLAMA_TURNS[-1], "additional_special_tokens": LLAMA_TURNS[:-1]})
        tokenizer.chat_template = LLAMA_TEMPLATE
    tokenizer = filled(tokenizer, shape["vocab_size"])
    config = LlamaConfig if llama else MistralConfig
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config(**shape, **special), dtype=torch.bfloat16)
    settle(model)
    model.generation_config = GenerationConfig(**special)
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def settle(model: PreTrainedModel) -> None:
    """Scale the outputs of every layer by 1 / sqrt(2 layers), and give the end of an answer the logit 0."""
    for layer in model.model.layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight.mul_((2 * len(model.model.layers)) ** -0.5)
    model.get_output_embeddings().weight[model.config.eos_token_id] = 0


def filled(tokenizer: PreTrainedTokenizerFast, size: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer with ids up to `size`; no text is read as one of the new ones, and each can be shown."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = backend["model"]["vocab"]
    used = {*vocab.values(), *(token["id"] for token in backend["added_tokens"])}
    free = (number for number in range(size) if number not in used)
    vocab |= {f"Ġ{number}": number for number in free}  # Ġ: a space, in byte-level spelling
    names = {key: getattr(tokenizer, key) for key in ("pad_token", "bos_token", "eos_token", "chat_template")}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), **names)


def main() -> None:
    """Write the model that the command line asks for."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("folder", type=Path)
    ask.add_argument("--llama", action="store_true")
    ask.add_argument("--small", action="store_true")
    options = ask.parse_args()
    shape = LLAMA if options.llama else BREEZE
    write(options.folder, shape | SMALL if options.small else shape, llama=options.llama)


if __name__ == "__main__":
    main()
