"""The `base` stage on a folder and on the miniature, and what it leaves for other stages to find."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from stance.config.models import FolderBase, MiniatureBase
from stance.errors import InputError
from stance.machine.memory import Room
from stance.models import intake
from stance.models.base import Base, Device, locate, small_files
from tasks import base as stage

PROMPT = "回覆請少於20字"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "own"))


def made(folder: Path, out: Path, device: Device = "cpu") -> Path:
    stage.base(FolderBase(source="folder", path=folder), PROMPT, 42, Path("unread"), out, device)
    return out


def test_every_file_of_a_folder_is_recorded_with_its_hash(folder, tmp_path):
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    record = Base.read(made(folder, tmp_path / "base"))
    expected = {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        for path in folder.iterdir()
        if path.name != "pytorch_model.bin"
    }
    assert {name: (file.sha256, file.size) for name, file in record.files.items()} == expected
    assert (record.source, record.path) == ("folder", folder)


def test_the_weights_of_a_folder_stay_there(folder, tmp_path):
    out = made(folder, tmp_path / "base")
    assert sorted(path.name for path in out.iterdir()) == ["base.json", "fingerprint.json"]
    assert locate(out) == folder


def test_the_fingerprint_holds_the_ids_of_the_conversation_as_the_model_card_writes_it(folder, tmp_path):
    text = (made(folder, tmp_path / "base") / "fingerprint.json").read_text(encoding="utf-8")
    reads = json.loads(text)
    bpe = Tokenizer.from_file(str(folder / "tokenizer.json"))
    written = "<s>回覆請少於20字 [INST] What is 1 + 1? [/INST] "
    assert reads["probes"][1] == bpe.encode(written, add_special_tokens=False).ids
    assert reads["chat_template"] == (folder / "chat_template.jinja").read_text()
    assert (reads["bos_token_id"], reads["eos_token_id"]) == (bpe.token_to_id("<s>"), bpe.token_to_id("</s>"))


@pytest.mark.parametrize(
    ("lost", "found"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no model.safetensors"),
        ("chat_template.jinja", "no chat template"),
    ],
)
def test_a_folder_that_holds_no_whole_chat_model_is_refused(lost, found, folder, tmp_path):
    (folder / lost).unlink()
    with pytest.raises(InputError, match=found):
        made(folder, tmp_path / "base")
    assert not (tmp_path / "base/base.json").exists()


def test_a_missing_shard_is_named(folder, tmp_path):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(InputError, match="lacks model-00002-of-00002.safetensors"):
        made(folder, tmp_path / "base")


def test_a_template_that_refuses_system_prompts_is_refused(folder, tmp_path):
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(InputError, match="refuses a conversation with a system prompt .no system role"):
        made(folder, tmp_path / "base")


@pytest.mark.parametrize("spoilt", ["{", "[]"])
def test_a_configuration_that_is_none_is_refused(spoilt, folder, tmp_path):
    (folder / "config.json").write_text(spoilt)
    with pytest.raises(InputError, match="expected what `save_pretrained` writes"):
        made(folder, tmp_path / "base")


def test_weights_beyond_the_memory_of_a_cpu_machine_are_refused(folder, tmp_path, monkeypatch):
    weights = (folder / "model.safetensors").stat().st_size
    monkeypatch.setattr(intake, "memory", lambda: Room(0, weights - 1))
    with pytest.raises(InputError, match=r"need 0\.0 GiB and this machine has 0\.0 GiB of memory"):
        made(folder, tmp_path / "base")
    made(folder, tmp_path / "on-gpu", "cuda")

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    made(folder, tmp_path / "halved-by-bf16")


@pytest.mark.parametrize("change", ["lost", "grown"])
def test_a_folder_that_has_changed_since_is_refused(change, folder, tmp_path):
    out = made(folder, tmp_path / "base")
    weights = folder / "model.safetensors"
    if change == "lost":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(InputError, match="model.safetensors missing or of another size"):
        locate(out)


def test_a_missing_record_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match=r"base\.json does not exist; run `dvc repro base`"):
        locate(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"source": "moon", "files": {}}', '{"source": "hub"}'])
def test_a_record_in_another_format_is_one_sentence(content, tmp_path):
    (tmp_path / "base.json").write_text(content)
    with pytest.raises(
        InputError, match=r"base\.json is not in the format of this version .* run `dvc repro -s -f base"
    ):
        locate(tmp_path)


def test_the_miniature_is_made_in_the_stage_folder_and_recorded(tmp_path):
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    row = {"id": 1, "prompt": "真人化好嗎？", "support": "真人化很好。", "oppose": "真人化不好。"}
    (dataset / "labelled_data.json").write_text(json.dumps([row]), encoding="utf-8")
    options = MiniatureBase(
        source="miniature",
        hidden_size=32,
        num_hidden_layers=1,
        vocab_size=320,
        max_steps=1,
        per_device_train_batch_size=1,
        learning_rate=1e-3,
    )
    out = tmp_path / "base"
    stage.base(options, PROMPT, 42, dataset, out)
    record, model = Base.read(out), locate(out)
    assert model == out / "model"
    assert {name: file.sha256 for name, file in record.files.items()} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in model.iterdir()
    }
    assert (record.source, record.repo_id, record.path) == ("miniature", None, None)
    assert len(json.loads((out / "fingerprint.json").read_text())["probes"]) == 3


def test_notes_and_results_in_the_folder_of_a_base_are_no_files_of_the_model():
    """They would be copied into the merged model, and published with it."""
    needed = [
        "added_tokens.json", "chat_template.jinja", "config.json", "generation_config.json", "merges.txt",
        "model.safetensors.index.json", "special_tokens_map.json", "tokenizer.json", "tokenizer.model",
        "tokenizer_config.json", "vocab.json",
    ]  # fmt: skip
    stray = ["notes.txt", "eval_samples.json", "trainer_state.json", "README.md", "token.txt", "model.safetensors"]
    assert small_files([*stray, *needed]) == needed
