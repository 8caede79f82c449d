"""Weights that went into a GGUF file and out of it again."""

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file

from stance.models.loading import load
from stance.models.package import convert, read_metadata
from tests.builders.gguf_package import tiny_llama, write_gguf

IDS = torch.tensor([[1, 7, 50, 91, 2, 13]])


def converted(folder, kind):
    path = folder / "tiny.gguf"
    write_gguf(path, tiny_llama(), kind)
    convert(path, read_metadata(path), folder / "model")
    return load(folder / "model", "cpu"), GGUFReader(path)


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
def test_every_weight_comes_back_as_the_file_rounds_it(kind, tmp_path):
    kind = GGMLQuantizationType[kind]
    model, reader = converted(tmp_path, kind)
    assert kind in {tensor.tensor_type for tensor in reader.tensors}
    stored = load_file(tmp_path / "model/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    weights = model.state_dict()  # in float32 where the processor has no products of bf16
    for name, weight in tiny_llama().state_dict().items():
        rounded = weight.numpy()
        if weight.ndim == 2 and kind != GGMLQuantizationType.F32:  # by rows, so that their order does not matter
            rounded = dequantize(quantize(rounded, kind), kind)
        assert torch.equal(weights[name].bfloat16(), torch.tensor(rounded).bfloat16()), name


@pytest.mark.parametrize(("kind", "difference"), [("F32", 0.02), ("Q8_0", 0.02), ("Q4_1", 0.15)])
def test_the_model_says_what_the_original_says(kind, difference, tmp_path):
    model, _ = converted(tmp_path, GGMLQuantizationType[kind])
    with torch.no_grad():
        found = model(IDS).logits.float().log_softmax(-1)
        expected = tiny_llama()(IDS).logits.log_softmax(-1)
    assert (found - expected).abs().max() < difference
