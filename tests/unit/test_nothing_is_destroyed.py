"""No step removes or overwrites a file that the project did not write."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from stance.config.data import FolderDataset
from stance.config.profiles import Overrides
from stance.data.questions import PROBES
from stance.errors import InputError
from stance.machine.files import empty
from stance.models.hub import discard
from stance.release import held
from stance.runs import workspace
from stance.training.merging import SMALL
from tasks.dataset import dataset


def write(path: Path, text: str = "precious") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


OURS = rf"{SMALL.pattern}|[^/]+\.safetensors"


@pytest.mark.parametrize("name", ["thesis.docx", "more/model.safetensors"])
def test_a_folder_with_other_files_is_not_emptied(tmp_path, name):
    kept = [write(tmp_path / "merged" / name), write(tmp_path / "merged/model.safetensors")]
    with pytest.raises(InputError, match=r"merged would be emptied and holds .*, which this project did not write"):
        empty(tmp_path / "merged", OURS)
    assert all(path.read_text() == "precious" for path in kept)


def test_a_folder_of_ours_is_emptied_behind_a_link_too(tmp_path):
    disk = tmp_path / "disk"
    for name in ("model-00001-of-00002.safetensors", "config.json", "tokenizer.model", "chat_template.jinja"):
        write(disk / name)
    (tmp_path / "merged").symlink_to(disk)
    empty(tmp_path / "merged", OURS)
    assert (tmp_path / "merged").is_symlink()
    assert list(disk.iterdir()) == []
    empty(tmp_path / "new/folder", OURS)
    assert (tmp_path / "new/folder").is_dir()


def test_a_damaged_file_of_the_cache_is_removed_and_a_model_behind_a_link_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    content, own = write(tmp_path / "hub/blobs/1"), write(tmp_path / "models/own.safetensors")
    for number, target in enumerate((content, own)):
        link = tmp_path / f"hub/snapshots/{number}.safetensors"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target)
        discard(link)
        assert not link.is_symlink()
    assert (content.exists(), own.exists()) == (False, True)


@pytest.fixture
def project(tmp_path, monkeypatch, git):
    """A repository of one commit."""
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "--quiet")
    write(tmp_path / "a.txt")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    return tmp_path


def test_a_folder_that_no_run_has_made_is_not_taken_for_a_run(project):
    kept = write(project / ".runs/mine/notes.txt")
    with pytest.raises(InputError, match=r"\.runs/mine exists, and no run has made it; choose another name, or move"):
        workspace.create("mine", Overrides(), edits=False)
    assert kept.read_text() == "precious"


def test_a_run_whose_maker_was_killed_is_made_again(project, monkeypatch):
    half = write(project / ".runs/mine/.git/config")
    write(project / ".runs/.mine.making")
    monkeypatch.setattr(workspace, "git", lambda *_, **__: (_ for _ in ()).throw(InputError("no further")))
    with pytest.raises(InputError, match="no further"):
        workspace.create("mine", Overrides(), edits=False)
    assert not half.exists()


def test_a_release_replaces_a_release_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held.require_own()
    for name in ("release.json", "provenance.json", "params.yaml", "adapter/adapter_config.json"):
        write(Path("data/release") / name, "{}")
    held.require_own()
    kept = write(Path("data/release/notes.txt"))
    with pytest.raises(InputError, match=r"data/release/notes\.txt was not written by a release, .*; move it away"):
        held.require_own()
    kept.unlink()
    Path("data/release").rename("elsewhere")
    Path("data/release").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="data/release is a link to .*elsewhere, which a release would replace"):
        held.require_own()


def test_a_data_set_is_not_copied_onto_itself(questions_folder):
    probes = questions_folder / PROBES
    probes.write_text(json.dumps([{"id": 1, "kind": "neighbour", "prompt": "好嗎？"}]))
    with pytest.raises(InputError, match="is the data set itself, which a copy would overwrite"):
        dataset(FolderDataset(source="folder", path=questions_folder, probes=None), questions_folder)
    assert json.loads(probes.read_bytes())
