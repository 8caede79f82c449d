"""What the check before a run refuses, and what it lets pass."""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import InputError
from tasks.fit import Here
from tasks.params import Params, compose
from tasks.preflight import preflight
from tasks.questions import LABELLED, TEST

FITS = "parameters fit the data: 10 questions, 2 test prompts"


@pytest.fixture
def check(questions_folder, tmp_path, caplog) -> Callable[..., str]:
    """Run the check on the miniature profile with ten questions and return what it logs; `__` stands for the dot."""
    caplog.set_level(logging.INFO, "tasks.preflight")

    def run(**overrides: Any) -> str:
        given = {"dataset.path": str(questions_folder), "pairs.data_size": 10}
        blocks = {key: overrides.pop(key) for key in ("base", "dataset") if key in overrides}
        values = compose("miniature", given | {key.replace("__", "."): value for key, value in overrides.items()})
        preflight(Params.parse(values | blocks, "test"), tmp_path / "dataset", tmp_path / "base")
        return caplog.messages[-1]

    return run


def from_git(folder: Path) -> dict[str, str]:
    """Return a git source with the hashes of a folder, in a place that does not exist."""
    hashes = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (LABELLED, TEST)]
    source = {"source": "git", "url": "/no/such/place", "commit": "0" * 40}
    return source | {"labelled_data_sha256": hashes[0], "test_prompt_sha256": hashes[1]}


def test_parameters_that_fit_the_data_pass(check, tmp_path):
    check()
    assert not (tmp_path / "dataset").exists()


def test_a_data_size_beyond_the_data_is_refused(check):
    with pytest.raises(InputError, match="pairs.data_size is 11 and the data set has 10 questions; set it to at most"):
        check(pairs__data_size=11)


def test_a_row_without_support_is_refused(check, questions_folder):
    rows = json.loads((questions_folder / LABELLED).read_text(encoding="utf-8"))
    del rows[3]["support"]
    (questions_folder / LABELLED).write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(InputError, match=f"{LABELLED}, row 4: support: field required"):
        check()


def test_test_prompts_are_checked_as_well(check, questions_folder):
    (questions_folder / TEST).unlink()
    with pytest.raises(InputError, match=f"{TEST} does not exist"):
        check()


def test_a_gpu_profile_is_refused_without_a_gpu(check):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="model.device is cuda and torch finds no GPU here; .*NAME=miniature"):
        check(model__device="cuda")


def test_a_base_in_a_folder_needs_a_chat_template(check, tiny_model, tmp_path):
    from tokenizers import Tokenizer, models

    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(tiny_model / "config.json", folder)
    Tokenizer(models.WordLevel({"<s>": 0}, unk_token="<s>")).save(str(folder / "tokenizer.json"))
    config: dict[str, str] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="model has no chat template; expected a chat model: add `chat_template`"):
        check(base={"source": "folder", "path": str(folder)})
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "{{ messages }}"}))
    check(base={"source": "folder", "path": str(folder)})


def test_a_base_that_does_not_fit_is_refused_with_the_numbers(check, tiny_model, monkeypatch):
    monkeypatch.setattr("tasks.fit.available", lambda device: Here(2**40, 2**40, 2**10))
    with pytest.raises(InputError, match=r"train takes about .* GiB of disk and there are 0.0; make room"):
        check(base={"source": "folder", "path": str(tiny_model)})


def test_a_commit_that_is_already_here_needs_no_network(check, questions_folder, tmp_path):
    shutil.copytree(questions_folder, tmp_path / "dataset")
    assert check(dataset=from_git(questions_folder)) == FITS


def test_a_commit_of_which_only_one_file_is_here_is_fetched(check, questions_folder, tmp_path):
    shutil.copytree(questions_folder, tmp_path / "dataset")
    source = from_git(questions_folder)
    (tmp_path / "dataset" / TEST).unlink()
    with pytest.raises(InputError, match="git fetch of /no/such/place"):
        check(dataset=source)


def lock(folder: Path, path: Path) -> None:
    """Write the part of `dvc.lock` that says where the data set came from."""
    source = {"source": "folder", "path": str(path)}
    stages = {"dataset": {"params": {"params.yaml": {"dataset": source}}}}
    (folder / "dvc.lock").write_text(json.dumps({"stages": stages}), encoding="utf-8")


def test_another_folder_than_last_time_is_for_dvc_to_see(check, questions_folder, tmp_path, monkeypatch):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / TEST).write_text("[]", encoding="utf-8")
    lock(tmp_path, tmp_path / "elsewhere")
    shutil.copytree("profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    assert check() == FITS


def test_an_edit_to_a_folder_that_dvc_does_not_watch_is_refused(check, questions_folder, tmp_path, monkeypatch):
    shutil.copytree(questions_folder, tmp_path / "dataset")
    lock(tmp_path, questions_folder)
    shutil.copytree("profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    check()
    rows = json.loads((questions_folder / TEST).read_text(encoding="utf-8"))
    (questions_folder / TEST).write_text(json.dumps(rows[:1]), encoding="utf-8")
    with pytest.raises(InputError, match=f"questions/{TEST} is no longer what .*; run `dvc repro -s -f dataset`"):
        check()


def test_an_edit_below_data_sources_is_for_dvc_to_see(check, questions_folder, tmp_path, monkeypatch):
    shutil.copytree(questions_folder, tmp_path / "work/data/sources/own")
    shutil.copytree("profiles", tmp_path / "work/profiles")
    shutil.copytree(questions_folder, tmp_path / "dataset")
    (tmp_path / "dataset" / TEST).write_text("[]")
    monkeypatch.chdir(tmp_path / "work")
    assert check(dataset__path="data/sources/own") == FITS


def test_a_misspelt_parameter_is_one_sentence_and_exit_code_1(run_module):
    values = compose("miniature")
    values["train"]["bata"] = values["train"].pop("beta")
    done = run_module("tasks.preflight", values)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: params.yaml: ")
    assert "train.bata: there is no such parameter; remove it or correct its spelling" in done.stderr
    assert "train.beta: field required" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_check_for_a_cpu_waits_for_no_torch():
    code = "import sys, tasks.preflight; print(*{'torch', 'transformers'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
