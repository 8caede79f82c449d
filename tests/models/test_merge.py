"""The merged model is the base plus the adapter, and parity notices when it is not."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from stance.data.chat import Fingerprint, load_tokenizer
from stance.data.noise import MERGED
from stance.data.preferences import Pair, read_pairs
from stance.data.training import Parity
from stance.errors import InputError
from stance.evaluation.gates import fingerprint_gate, parity_gate
from stance.models.loading import load, nf4
from stance.models.parity import drift, floor, score
from stance.training.merging import (
    Update,
    answer_texts,
    candidate_scores,
    candidates,
    through_nf4,
    update,
    with_adapter,
)
from tests.builders.small_run import merge_in, params, prepare, train_in


def all_pairs(root: Path) -> list[Pair]:
    """The pairs that are trained on, and those that are held out."""
    return [pair for name in ("train", "eval") for pair in read_pairs(root / f"pairs/{name}.jsonl")]


@pytest.fixture(scope="module")
def root(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge")
    chosen = params(tiny_model)
    prepare(folder, chosen)
    adapter = train_in(folder, chosen)
    merge_in(folder, chosen, adapter)
    return folder


def measured(root: Path, merged: Path, tiny_model: Path) -> Parity:
    """Parity of a merged folder with the trained model, measured here."""
    tokenizer = load_tokenizer(tiny_model)
    texts = [text for row in all_pairs(root) for text in answer_texts(tokenizer, row)]
    trained = score(with_adapter(load(tiny_model, "cpu", nf4("cpu")), root / "adapter"), texts)
    model = load(merged, "cpu")
    scores = score(model, texts)
    noise = floor(model, texts, scores)
    final = drift(trained, scores, noise.bounds(MERGED)[1])
    return Parity(base="original", **final.model_dump(), floor=noise, candidates={})


def test_merged_folder_loads_alone_and_strictly(root: Path, tiny_model: Path):
    assert {path.name for path in (root / "merged").iterdir()} == {path.name for path in tiny_model.iterdir()}
    weights = load_file(root / "merged/model.safetensors")
    plain = AutoModelForCausalLM.from_pretrained(root / "merged", dtype=torch.bfloat16)
    plain.load_state_dict(weights, strict=True)
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    assert not [name for name in weights if "lora" in name]
    assert "quantization_config" not in json.loads((root / "merged/config.json").read_text())


def test_merged_file_begins_as_the_base_file(root: Path, tiny_model: Path):
    """Eight bytes of length, then names, dtypes, shapes and offsets as the base has them (safetensors' format)."""
    base, merged = ((folder / "model.safetensors").read_bytes() for folder in (tiny_model, root / "merged"))
    length = 8 + int.from_bytes(base[:8], "little")
    assert merged[:length] == base[:length]
    assert len(merged) == len(base)
    assert merged != base


def test_every_candidate_is_measured_on_the_base_and_not_on_the_one_before(root: Path, tiny_model: Path):
    """In either order; the dequantised candidate changes every linear layer, the original one those with an adapter."""
    texts = [text for row in all_pairs(root) for text in answer_texts(load_tokenizer(tiny_model), row)]
    changes = {name: update(name, tiny_model, root / "adapter") for name in ("original", "dequantized")}
    backwards = dict(reversed(changes.items()))
    found = candidate_scores(tiny_model, changes, "cpu", texts)
    assert found == candidate_scores(tiny_model, backwards, "cpu", texts)
    assert found["original"] != found["dequantized"]


def test_merged_weight_is_the_dequantised_weight_plus_the_scaled_product(root: Path, tiny_model: Path):
    """W + B A * alpha / r, worked out here for one layer; alpha 16, r 8."""
    layer = "model.layers.1.mlp.up_proj"
    base = load(tiny_model, "cpu", nf4("cpu")).dequantize(torch.bfloat16).state_dict()[f"{layer}.weight"].float()
    adapter = load_file(root / "adapter/adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.{layer}.lora_{side}.weight"].float() for side in "AB")
    merged = load_file(root / "merged/model.safetensors")[f"{layer}.weight"].float()
    assert float((merged - base).norm()) > 0
    torch.testing.assert_close(merged, base + b @ a * 16 / 8, atol=2e-3, rtol=1e-2)


def test_a_merged_weight_is_rounded_once_so_that_the_update_is_not_lost(tiny_model: Path):
    """An update of a quarter of a bf16 step: rounded twice it is lost everywhere, rounded once it stays on average."""
    torch.manual_seed(0)
    weight = torch.randn(64, 64).bfloat16()
    shift = torch.full((64, 64), 2.0**-12)
    change = Update({"w": (torch.eye(64), shift)}, 1.0, frozenset({"w"}))
    merged = change("w", weight).float()
    packed = through_nf4(weight.float())
    kept = (merged - packed).mean() / shift.mean()
    lost = ((packed.bfloat16().float() + shift).bfloat16().float() - packed.bfloat16().float()).mean() / shift.mean()
    assert merged.equal((packed + shift).bfloat16().float())
    assert abs(kept - 1) < abs(lost - 1)


def test_merge_keeps_the_candidate_that_drifts_less(root: Path):
    parity = json.loads((root / "merge/parity.json").read_text())
    means = {name: found["mean"] for name, found in parity["candidates"].items()}
    assert set(means) == {"original", "dequantized"}
    assert parity["base"] == min(means, key=means.__getitem__)
    assert parity["mean"] == pytest.approx(means[parity["base"]], abs=1e-6)


def test_parity_of_a_sound_merge_passes(root: Path, tiny_model: Path):
    parity = measured(root, root / "merged", tiny_model)
    assert parity.tokens > 50
    assert parity_gate(params(tiny_model).merge, parity).passed


def test_parity_fails_when_one_weight_is_changed(root: Path, tiny_model: Path, tmp_path: Path):
    for path in (root / "merged").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(root / "merged/model.safetensors")
    weights["model.norm.weight"][0] += 30
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert not parity_gate(params(tiny_model).merge, measured(root, tmp_path, tiny_model)).passed


def test_parity_fails_on_the_weights_of_an_older_run(root: Path, tiny_model: Path):
    assert not parity_gate(params(tiny_model).merge, measured(root, tiny_model, tiny_model)).passed


def test_fingerprint_gate_fails_when_the_template_is_changed(root: Path):
    base, merged = (Fingerprint.read(root / name / "fingerprint.json") for name in ("base", "merge"))
    assert fingerprint_gate(base, merged).passed
    changed = merged.model_copy(update={"chat_template": f"{merged.chat_template} "})
    assert not fingerprint_gate(base, changed).passed


def test_the_files_of_the_merged_model_are_listed_with_their_hashes(root: Path):
    hashes = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in (root / "merged").iterdir()}
    assert json.loads((root / "merge/files.json").read_text()) == hashes


def test_log_probabilities_are_recorded_by_stance(root: Path):
    """Pair 4 prefers oppose (half of four pairs prefer support, the first ones); its columns are by stance still."""
    logps = json.loads((root / "merge/logps.json").read_text())
    assert list(logps) == ["1", "2", "3", "4", "5", "6"]
    tokenizer = load_tokenizer(root / "merged")
    row = next(row for row in all_pairs(root) if row.id == 4)
    assert row.preferred == "oppose"
    (_, oppose), (_, support) = answer_texts(tokenizer, row)
    assert {side: len(values) for side, values in logps["4"].items()} == {
        "support": len(support),
        "oppose": len(oppose),
    }


def test_dequantised_base_without_quantisation_is_refused(tiny_model: Path):
    chosen = params(tiny_model, model__quantization="none", merge__base="dequantized")
    with pytest.raises(InputError, match="set merge.base to original"):
        candidates(chosen.model, chosen.merge)
