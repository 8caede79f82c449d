"""Folders as people have them: each is refused by the pre-flight and by `base`, in a sentence with file and way out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from stance.config.models import FolderBase
from stance.errors import InputError
from stance.preflight.checks import check_model
from tasks import base as stage
from tests.builders.small_run import params

SINGLE, INDEX, SHARD = "model.safetensors", "model.safetensors.index.json", "model-00001-of-00001.safetensors"
METADATA = {"format": "pt"}


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "own"))


def made(folder: Path, out: Path) -> None:
    stage.base(FolderBase(source="folder", path=folder), "Be brief.", 42, Path("unread"), out)


def refused(folder: Path, expected: str) -> None:
    """Expect the same failure of the pre-flight and of `base`, which leaves no record."""
    rows = [row for row in check_model(params(folder), [], folder.parent / "base") if row.verdict == "fails"]
    assert len(rows) == 1
    assert rows[0].error
    with pytest.raises(InputError, match=expected):
        raise rows[0].error
    with pytest.raises(InputError, match=expected):
        made(folder, folder.parent / "base")
    assert not (folder.parent / "base/base.json").exists()


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def pointer(folder: Path) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{7:064d}\nsize 4943274328\n"
    (folder / SINGLE).write_text(text)


def cut(folder: Path) -> None:
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-100])


def page(folder: Path) -> None:
    (folder / SINGLE).write_text("<html>403 Forbidden</html>")


def empty(folder: Path) -> None:
    (folder / SINGLE).write_bytes(b"")


def sharded(folder: Path, lost: str = "", keep: bool = False) -> None:
    weights = load_file(folder / SINGLE)
    if not keep:
        (folder / SINGLE).unlink()
    save_file({name: value for name, value in weights.items() if name != lost}, folder / SHARD, METADATA)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, SHARD)}))


def no_index(folder: Path) -> None:
    sharded(folder)
    (folder / INDEX).write_text(json.dumps({"metadata": {}}))


def broken_index(folder: Path) -> None:
    sharded(folder)
    (folder / INDEX).write_text("{")


def older_shard(folder: Path) -> None:
    shutil.copyfile(folder / SINGLE, folder / SHARD)


def quantised(method: str, key: str = "quantization_config") -> Callable[[Path], None]:
    return lambda folder: change_config(folder, **{key: {"quant_method": method, "bits": 4}})


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')


def only_an_adapter(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    adapter(folder)


def more_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)


def other_size(folder: Path) -> None:
    change_config(folder, intermediate_size=96)


def one_layer_less(folder: Path) -> None:
    weights = load_file(folder / SINGLE)
    del weights["model.layers.1.input_layernorm.weight"]
    save_file(weights, folder / SINGLE, METADATA)


def own_code(folder: Path) -> None:
    change_config(folder, model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"})
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")


def encoder_only(folder: Path) -> None:
    change_config(folder, model_type="t5", architectures=["T5ForConditionalGeneration"])


def renamed(folder: Path) -> None:
    weights = {name.removeprefix("model."): value for name, value in load_file(folder / SINGLE).items()}
    save_file(weights, folder / SINGLE, METADATA)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (pointer, r"model\.safetensors is a pointer of git-lfs .* run `git lfs pull`"),
        (cut, r"model\.safetensors has \d+ bytes and its header describes \d+; .* fetch it anew"),
        (page, r"model\.safetensors is no safetensors file \(26 bytes\); fetch it anew"),
        (empty, r"model\.safetensors is no safetensors file \(0 bytes\)"),
        (lambda folder: sharded(folder, "model.norm.weight"), rf"{INDEX} of .* says that {SHARD} holds model\.norm"),
        (no_index, rf"{INDEX} is no index of weights; expected `weight_map`"),
        (broken_index, rf"{INDEX} is not JSON"),
        (lambda folder: sharded(folder, keep=True), rf"two sets of weights: {SINGLE}, and {SHARD} that {INDEX} names"),
        (older_shard, rf"holds {SHARD} beside {SINGLE}; vLLM would load both"),
        (quantised("bitsandbytes"), r"quantised already \(quantization_config in config\.json, method bitsandbytes\)"),
        (quantised("gptq"), r"method gptq\).*choose the unquantised model"),
        (quantised("fp8"), r"method fp8\).*choose the unquantised model"),
        (quantised("compressed-tensors", "compression_config"), r"method compressed-tensors\)"),
        (adapter, r"holds adapter_config\.json, so it is an adapter .* merge the adapter into its base first"),
        (only_an_adapter, r"holds adapter_config\.json, so it is an adapter"),
        (more_tokens, r"has (\d+) tokens and the model's embeddings have \d+ rows; remove the added tokens"),
        (other_size, r"model\.layers\.0\.mlp\.\w+\.weight of .* has the shape \(.*\) and config\.json describes \("),
        (one_layer_less, r"lacks the weights model\.layers\.1\.input_layernorm\.weight, which config\.json describes"),
        (own_code, r"brings code of its own \(`auto_map` in its configuration\), which is never run here"),
        (encoder_only, r"t5 is no causal language model; choose one that generates text"),
        (renamed, r"have other names than the model's layers: model\.layers\.0\..* write it with `save_pretrained`"),
    ],
)
def test_weights_that_cannot_be_trained_are_refused_before_anything_is_loaded(spoil, expected, folder, monkeypatch):
    spoil(folder)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    refused(folder, expected)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("whole", [sharded, lambda folder: None])
def test_a_sound_folder_passes_with_or_without_an_index(whole, folder):
    whole(folder)
    rows = check_model(params(folder), [], folder.parent / "base")
    assert ("weights", "ok") in [(row.check, row.verdict) for row in rows]
    made(folder, folder.parent / "base")


def test_an_index_of_a_single_file_passes(folder):
    weights = load_file(folder / SINGLE)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, SINGLE)}))
    made(folder, folder.parent / "base")


def test_tied_weights_are_stored_once_and_pass(folder):
    change_config(folder, tie_word_embeddings=True)
    weights = load_file(folder / SINGLE)
    del weights["lm_head.weight"]
    save_file(weights, folder / SINGLE, METADATA)
    made(folder, folder.parent / "base")
