"""Every file of a bundle is needed, recorded, searched for secrets and compared with its record."""

from pathlib import Path

import pytest

from stance.errors import InputError
from stance.machine.files import md5_of_files, write_json
from stance.release.bundle import PARTS, Local, bundle
from stance.runs.finished import FinishedRun
from tests.builders.finished_run import write_lock, write_run

FROM = {
    "dvc.lock": "dvc.lock",
    "fingerprint.json": "data/merge/fingerprint.json",
    "gates.json": "data/evaluation/gates.json",
    "params.yaml": "params.yaml",
    "responses.json": "data/evaluation/responses.json",
}
"""Where the files beside the weights come from."""
MADE = {"README.md", "adapter_config.json", "model.sig", "provenance.json"}
"""What a push writes itself, of checked values."""
TOKEN = f"hf_{'a' * 34}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the list of the files of its merged model, by which each is named."""
    run = write_run(tmp_path / "run")
    write_json(run / "data/merge/files.json", md5_of_files(run / "data/merged"))
    write_lock(run)
    return run


def bundles(run: Path) -> dict[str, dict[str, Local]]:
    finished = FinishedRun.read(run)
    return {part: bundle(finished, finished.params.hub, part) for part in PARTS}


def origins(run: Path) -> list[Path]:
    """Return the file of the run behind every file that is sent."""
    return sorted(
        {
            local.content if isinstance(local.content, Path) else run / FROM[name]
            for files in bundles(run).values()
            for name, local in files.items()
            if name not in MADE
        }
    )


def test_a_bundle_holds_what_is_named_here_and_no_more(run):
    beside = {*FROM, "README.md", "model.sig", "provenance.json"}
    assert {part: set(files) for part, files in bundles(run).items()} == {
        "adapter": {
            *beside, "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"
        },
        "merged": {
            *beside, "chat_template.jinja", "config.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors",
            "tokenizer.json",
        },
    }  # fmt: skip


def test_each_file_that_is_sent_is_refused_after_any_change(run):
    for path in origins(run):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"num_epoch: 3", b"num_epoch: x") if path.name == "params.yaml" else b"{}")
        named = "data/adapter" if path.name == "adapter_model.safetensors" else path.name
        with pytest.raises(InputError, match=named):  # DVC has one hash for the folder of the adapter
            bundles(run)
        path.write_bytes(content)
    assert len(bundles(run)) == 2


def put_at_the_end(path: Path) -> None:
    """Add a token to a text, in a form that the file's reader accepts."""
    text = path.read_text()
    if path.name == "responses.json":
        path.write_text(text.replace("不一定。", f"不一定。{TOKEN}"))
    elif path.suffix == ".json" and path.name in ("fingerprint.json", "gates.json"):
        path.write_text(text.replace("{{ messages }}", f"{{{{ messages }}}}{TOKEN}"))
    elif path.suffix == ".json":
        path.write_text(text.replace("{", f'{{"note": "{TOKEN}", ', 1))
    else:
        path.write_text(f"{text}# {TOKEN}\n")


def test_each_text_that_is_sent_is_searched_for_secrets(run):
    """The gates hold no text of anybody; the merged fingerprint has the base's template, so that both get the token."""
    for path in origins(run):
        if path.suffix == ".safetensors" or path.name == "gates.json":
            continue
        content, others = path.read_bytes(), run / "data/base/fingerprint.json"
        template = others.read_bytes()
        put_at_the_end(path)
        write_json(run / "data/merge/files.json", md5_of_files(run / "data/merged"))
        if path.name == "fingerprint.json":
            put_at_the_end(others)
        if path.name != "dvc.lock":
            write_lock(run)
        with pytest.raises(InputError, match=rf"of {path.name} holds what looks like a password or a token"):
            bundles(run)
        path.write_bytes(content)
        others.write_bytes(template)
        write_json(run / "data/merge/files.json", md5_of_files(run / "data/merged"))
        write_lock(run)
    assert len(bundles(run)) == 2
