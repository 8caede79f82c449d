"""The `dataset` stage: verbatim copies, from a folder or from a commit, or one sentence and nothing written."""

import hashlib
import json
import time
from pathlib import Path

import pytest

from stance.config.data import FolderDataset, GitDataset
from stance.config.profiles import compose
from stance.data.questions import LABELLED, PROBES, TEST, read_probes
from stance.data.side_effects import RETAINED, SIDE_EFFECTS
from stance.errors import InputError
from tasks.dataset import dataset

NO_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def upstream(questions_folder, git) -> GitDataset:
    """A repository's first commit; its second one, the tip, changes one file and loses the other."""
    git(questions_folder, "init", "--quiet")
    git(questions_folder, "add", ".")
    git(questions_folder, "-c", "core.autocrlf=false", "commit", "--quiet", "-m", "the data")
    source = GitDataset(
        source="git",
        url=str(questions_folder),
        commit=git(questions_folder, "rev-parse", "HEAD"),
        labelled_data_sha256=sha256(questions_folder / LABELLED),
        test_prompt_sha256=sha256(questions_folder / TEST),
        probes=None,
    )
    (questions_folder / LABELLED).write_text("[]")
    (questions_folder / TEST).unlink()
    git(questions_folder, "commit", "--quiet", "--all", "-m", "no data")
    return source


def test_a_folder_is_copied_verbatim(questions_folder, tmp_path):
    dataset(FolderDataset(source="folder", path=questions_folder, probes=None), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(questions_folder) | dict.fromkeys(
        (PROBES, SIDE_EFFECTS, RETAINED), b"[]\n"
    )
    assert b"\\u771f" in contents(tmp_path / "out")[LABELLED]
    assert b"\r\n\t]" in contents(tmp_path / "out")[LABELLED]


def test_probes_come_along_and_without_them_there_is_an_empty_list(questions_folder, tmp_path):
    probes = tmp_path / "asked.json"
    probes.write_text('[{"id": 1, "kind": "neighbour", "prompt": "小說好看嗎？"}]', encoding="utf-8")
    for name, path in (("with", probes), ("without", None)):
        dataset(FolderDataset(source="folder", path=questions_folder, probes=path), tmp_path / name)
    assert (tmp_path / "with" / PROBES).read_bytes() == probes.read_bytes()
    assert read_probes(tmp_path / "without" / PROBES) == []


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"kind": "paraphrase"}, "row 1: the row: kind paraphrase needs of"),
        ({"kind": "pressure"}, "row 1: the row: kind pressure needs pushes"),
        ({"kind": "unrelated"}, "row 1: the row: kind unrelated needs answer"),
        ({"kind": "remote"}, "row 1: kind: input should be"),
    ],
)
def test_a_probe_without_what_its_kind_needs_is_refused_before_anything_is_written(
    questions_folder, tmp_path, row, found
):
    probes = tmp_path / "asked.json"
    probes.write_text(json.dumps([{"id": 1, "prompt": "好嗎？"} | row]), encoding="utf-8")
    with pytest.raises(InputError, match=found):
        dataset(FolderDataset(source="folder", path=questions_folder, probes=probes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_of_the_folder_only_the_two_files_are_copied(questions_folder, tmp_path):
    (questions_folder / "notes.txt").write_text("mine")
    dataset(FolderDataset(source="folder", path=questions_folder, probes=None), tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {LABELLED, TEST, PROBES, SIDE_EFFECTS, RETAINED}


def test_a_commit_that_is_not_the_tip_is_copied_verbatim(upstream, tmp_path):
    dataset(upstream, tmp_path / "out")
    hashes = {name: sha256(tmp_path / "out" / name) for name in (LABELLED, TEST)}
    assert hashes == {LABELLED: upstream.labelled_data_sha256, TEST: upstream.test_prompt_sha256}


def test_the_schema_of_a_commit_is_checked_too(upstream, tmp_path, git):
    folder = Path(upstream.url)
    (folder / TEST).write_text('[{"id": 1}]')
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "bad data")
    source = upstream.model_copy(
        update={
            "commit": git(folder, "rev-parse", "HEAD"),
            "labelled_data_sha256": sha256(folder / LABELLED),
            "test_prompt_sha256": sha256(folder / TEST),
        }
    )
    with pytest.raises(InputError, match=f"questions@{source.commit[:7]}/{LABELLED} holds an empty list"):
        dataset(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"test_prompt_sha256": "0" * 64},
            f"{TEST} of .*questions has sha256 [0-9a-f]{{64}}, expected 0{{64}}: .*; put",
        ),
        ({"labelled_data_sha256": "0" * 64}, f"{LABELLED} of .* expected 0{{64}}: .*; put the new hash into params"),
        ({"commit": NO_COMMIT}, rf"at {NO_COMMIT} failed \(.*not our ref.*\); .* check dataset.url, dataset.commit"),
        ({"url": "/no/such/place"}, r"git fetch of /no/such/place .*\(.*/no/such/place.* not .*repository\); .* check"),
        ({"url": "--upload-pack=touch"}, r"git fetch .* failed \(.*--upload-pack=touch.*\)"),
    ],
)
def test_a_source_that_is_not_what_was_configured_is_refused_in_one_sentence(upstream, tmp_path, change, problem):
    with pytest.raises(InputError, match=problem) as refused:
        dataset(upstream.model_copy(update=change), tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_commit_without_one_of_the_files_is_refused(upstream, tmp_path, git):
    tip = git(Path(upstream.url), "rev-parse", "HEAD")
    with pytest.raises(InputError, match=rf"git show .* at {tip} failed \(.*{TEST}.*\); expected .* and {TEST} there"):
        dataset(upstream.model_copy(update={"commit": tip}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_row_leaves_nothing_behind(questions_folder, tmp_path):
    (questions_folder / TEST).write_text('[{"id": 1}]')
    with pytest.raises(InputError, match=f"{TEST}, row 1: prompt"):
        dataset(FolderDataset(source="folder", path=questions_folder, probes=None), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_server_that_does_not_answer_is_a_sentence_and_exit_code_75_for_later(run_module, tmp_path):
    values = compose("breeze-7b", {"dataset.url": "https://127.0.0.1:9/nobody/nothing.git"})
    began = time.monotonic()
    done = run_module("tasks.dataset", values, "out")
    assert time.monotonic() - began < 10
    assert done.returncode == 75
    assert done.stderr.startswith("error: git fetch of https://127.0.0.1:9/nobody/nothing.git at 4dcd0ed")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_repository_that_is_not_there_is_a_sentence_and_exit_code_1(run_module):
    done = run_module("tasks.dataset", compose("breeze-7b", {"dataset.url": "/no/such/place"}), "out")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: git fetch of /no/such/place")


def test_the_stage_copies_and_says_how_much(run_module, questions_folder, tmp_path):
    values = compose("miniature", {"dataset.path": "questions", "dataset.probes": None})
    done = run_module("tasks.dataset", values, "a/new/folder")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "10 training questions, 2 test prompts and 0 probes in a/new/folder\n"
    assert contents(tmp_path / "a/new/folder").keys() - contents(questions_folder).keys() == {
        PROBES,
        SIDE_EFFECTS,
        RETAINED,
    }
