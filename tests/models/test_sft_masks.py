"""What a fine-tuning trains on, for four families of chat models; the texts were worked out by hand."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from stance.config.training import Sft
from stance.data.chat import conversation
from stance.training.fine_tuning import trainer_of
from stance.training.sft import IGNORED, labels, require_masks, sft_config
from tests.builders.families import FAMILIES, byte_level_of
from tests.builders.small_run import params

MASKED = {
    "Qwen2.5": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nIs it good?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "Breeze": "<s>Be brief. [INST] Is it good? [/INST] ",
    "Llama 3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nIs it good?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "Mistral": "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Is it good?[/INST]",
}
TRAINED = {
    "Qwen2.5": "Yes, it will.<|im_end|>\n",  # the template ends a turn with a line break, behind the stop token
    "Breeze": "Yes, it will.</s>",
    "Llama 3": "Yes, it will.<|eot_id|>",
    "Mistral": "Yes, it will.</s>",
}


@pytest.mark.parametrize("name", MASKED)
def test_the_answer_and_its_stop_token_are_trained_on_and_nothing_else(name: str, tmp_path: Path):
    tokenizer = byte_level_of(FAMILIES[name])
    tokenizer.pad_token = tokenizer.eos_token
    shape = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                        num_attention_heads=1, num_key_value_heads=1)  # fmt: skip
    AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    chosen = params(tmp_path / "model", model__quantization="none")
    answer = [{"role": "assistant", "content": "Yes, it will."}]
    rows = [{"prompt": conversation("Be brief.", "Is it good?"), "completion": answer}]
    config = sft_config(chosen.model, Sft(num_epoch=1, learning_rate=1e-4), chosen.train, 1, tmp_path)
    trainer = trainer_of(
        chosen.model, chosen.train, tmp_path / "model", None, tokenizer, rows, config, tmp_path / "log.csv"
    )
    require_masks(trainer, tokenizer, rows)
    [row] = trainer.train_dataset.to_list()
    marks = labels(trainer, row)
    masked = [token for token, label in zip(row["input_ids"], marks, strict=True) if label == IGNORED]
    trained = [label for label in marks if label != IGNORED]
    assert tokenizer.decode(masked) == MASKED[name]
    assert tokenizer.decode(trained) == TRAINED[name]
    assert masked + trained == row["input_ids"]
