"""A dry run lists what a push would send, where there is no token, no name of a repository and no network."""

import sys
from pathlib import Path

import pytest
import yaml

from stance.errors import Unreachable
from stance.machine.files import md5_of_files, read_yaml, write_json
from stance.release import push
from tests.builders.finished_run import write_lock, write_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run, which is the current folder."""
    folder = write_run(tmp_path / "run")
    write_json(folder / "data/merge/files.json", md5_of_files(folder / "data/merged"))
    write_lock(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["python -m stance push", "--dry-run"])
    monkeypatch.setattr(push, "_api", lambda: pytest.fail("the Hub was asked"))
    return folder


def token(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.setattr(push, "get_token", lambda: value)


def unnamed(run: Path) -> None:
    """Take the names of both repositories out of the parameters."""
    values = read_yaml(run / "params.yaml")
    values["hub"] |= {"push": False, "adapter_repo_id": None, "merged_repo_id": None}
    (run / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    write_lock(run)


def test_without_a_token_every_file_is_listed_and_the_hub_is_not_asked(run, monkeypatch, capsys):
    token(monkeypatch, None)
    push.main()
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("team/adapter", "team/merged", "model-1-of-2.safetensors", "300.0 kB", "new"))
    assert "the Hub was not asked, so every file is listed as new: there is no token\n" in shown
    assert not (run / "data/release").exists()


def test_without_names_the_parameters_stand_in_their_place(run, monkeypatch, capsys):
    unnamed(run)
    token(monkeypatch, "hf_x")
    push.main()
    shown = capsys.readouterr().out
    assert "(hub.merged_repo_id)" in shown
    assert shown.endswith("as new: hub.adapter_repo_id is null and hub.merged_repo_id is null\n")


def test_a_model_that_was_fine_tuned_as_a_whole_is_sent_without_its_adapter(run, monkeypatch, capsys):
    values = read_yaml(run / "params.yaml") | {"sft": {"method": "full", "num_epoch": 1, "learning_rate": 2e-5}}
    (run / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    write_lock(run)
    token(monkeypatch, None)
    push.main()
    shown = capsys.readouterr().out
    assert "team/merged" in shown
    assert "team/adapter" not in shown


def test_without_a_network_the_reason_is_told(run, monkeypatch, capsys):
    token(monkeypatch, "hf_x")

    def down(*_):
        raise Unreachable("the Hub cannot be reached")

    monkeypatch.setattr(push, "plans", down)
    push.main()
    assert capsys.readouterr().out.endswith("as new: the Hub cannot be reached\n")
