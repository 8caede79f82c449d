"""The `base` stage on a GGUF file in a Python package that is installed and never imported."""

import json
import re
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from stance.config.models import PackageBase
from stance.errors import InputError
from stance.machine.files import digest
from stance.machine.memory import Room
from stance.models import intake
from stance.models.base import Base, Device, Package, locate
from stance.models.package import find, read_metadata
from tasks import base as stage
from tests.builders.gguf_package import CHATML, write_package

PROMPT = "Reply in fewer than 20 words."


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """An empty folder on `sys.path`."""
    folder: Path = tmp_path / "site"
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def package(site) -> PackageBase:
    return write_package(site)


def made(package: PackageBase, out: Path, device: Device = "cpu") -> Path:
    stage.base(package, PROMPT, 42, Path("unread"), out, device)
    return out


def test_the_model_is_converted_recorded_and_found_again(package, tmp_path):
    out = made(package, tmp_path / "base")
    record, model = Base.read(out), locate(out)
    assert model == out / "model"
    assert record.source == "package"
    assert record.package == Package(
        distribution="tiny-chat",
        version="1.0",
        file="tiny_chat/tiny.gguf",
        sha256=package.sha256,
        original="somebody/tiny",
        license="apache-2.0",
    )
    assert record.files == {path.name: digest(path) for path in model.iterdir()}
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert expected <= record.files.keys()
    assert "tiny_chat" not in sys.modules


def test_a_model_that_has_changed_since_is_refused(package, tmp_path):
    out = made(package, tmp_path / "base")
    (out / "model/config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json missing or of another size"):
        locate(out)


@pytest.mark.parametrize("reads", ["right", "wrong"])
def test_the_special_tokens_are_those_of_the_file_whatever_transformers_reads(reads, package, tmp_path, monkeypatch):
    original = AutoTokenizer.from_pretrained

    def wrong(*arguments, **options):
        tokenizer = original(*arguments, **options)
        if "gguf_file" in options:
            tokenizer.eos_token = tokenizer.pad_token = "<|im_start|>"
        return tokenizer

    if reads == "wrong":
        monkeypatch.setattr(AutoTokenizer, "from_pretrained", wrong)
    model = locate(made(package, tmp_path / "base"))
    monkeypatch.undo()
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    tokens = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token)
    assert tokens == ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_end|>")
    assert tokenizer.chat_template == CHATML
    for name in ("config.json", "generation_config.json"):
        ids = json.loads((model / name).read_text())
        assert [ids[f"{token}_token_id"] for token in ("bos", "eos", "pad")] == [1, 2, 2]


def test_the_fingerprint_holds_the_ids_of_a_conversation(package, tmp_path):
    reads = json.loads((made(package, tmp_path / "base") / "fingerprint.json").read_text(encoding="utf-8"))
    assert (reads["bos_token_id"], reads["eos_token_id"], reads["chat_template"]) == (1, 2, CHATML)
    assert [probe[0] for probe in reads["probes"]] == [1, 1, 1]


def test_a_missing_package_says_how_to_install_it(tmp_path):
    package = PackageBase(
        source="package", distribution="no-such-model", version="2.0", file="a/b.gguf", sha256="0" * 64, original="a/b"
    )
    with pytest.raises(InputError) as error:
        made(package, tmp_path / "base")
    assert str(error.value) == (
        "the package no-such-model, which holds the base model, is not installed; expected no-such-model 2.0: "
        "`make environment` installs what the project pins"
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"version": "1.1"}, "tiny-chat 1.0 is installed; expected tiny-chat 1.1, as base.version says"),
        ({"file": "tiny_chat/other.gguf"}, "tiny-chat 1.0 holds no tiny_chat/other.gguf; correct base.file"),
        ({"sha256": "0" * 64}, "has SHA-256 [0-9a-f]{64}; expected 0{64}, as base.sha256 says"),
    ],
)
def test_another_version_file_or_hash_is_refused(changes, problem, package, tmp_path):
    with pytest.raises(InputError, match=problem):
        made(package.model_copy(update=changes), tmp_path / "base")
    assert not (tmp_path / "base/model").exists()


def test_a_file_without_a_chat_template_is_refused_before_it_is_converted(site, tmp_path):
    package = write_package(site, template=None)
    with pytest.raises(InputError, match="tiny.gguf has no chat template; expected a chat model"):
        made(package, tmp_path / "base")
    assert not (tmp_path / "base/model").exists()


def test_a_file_that_is_no_gguf_is_refused(site, package, tmp_path):
    path = site / "tiny_chat/tiny.gguf"
    path.write_bytes(b"no GGUF at all" * 10)
    with pytest.raises(InputError, match=f"{re.escape(str(path))} is not a GGUF file"):
        made(package.model_copy(update={"sha256": digest(path).sha256}), tmp_path / "base")


def test_an_architecture_that_transformers_does_not_know_is_refused(site, package, tmp_path):
    path = site / "tiny_chat/tiny.gguf"
    path.write_bytes(path.read_bytes().replace(b"llama", b"lxama"))
    with pytest.raises(InputError, match=r"transformers cannot read tiny\.gguf .*lxama"):
        made(package.model_copy(update={"sha256": digest(path).sha256}), tmp_path / "base")


def test_weights_beyond_the_memory_of_a_cpu_machine_are_refused(package, tmp_path, monkeypatch):
    needed = 2 * read_metadata(find(package)).parameters
    monkeypatch.setattr(intake, "memory", lambda: Room(0, needed - 1))
    with pytest.raises(InputError, match=r"need 0\.0 GiB and this machine has 0\.0 GiB of memory"):
        made(package, tmp_path / "base")
    made(package, tmp_path / "on-gpu", "cuda")
