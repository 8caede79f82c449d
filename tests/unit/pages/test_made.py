"""The copy of the report says how, when and where the run was made; the report itself does not."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stance.machine.git import git
from stance.pages.made import made, write_made
from stance.runs.record import Run
from tests.builders.pages import english

SENTENCE = '<h2>Provenance</h2>\n<p class="note" id="made">\nNo date.</p>\n<h3>Base</h3>\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {base: {cmd: a}, train: {cmd: b}}")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "dvc.yaml")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "data/report").mkdir(parents=True)
    for name in ("index.html", "index.zh-TW.html"):
        (tmp_path / "data/report" / name).write_text(SENTENCE)
    return tmp_path


def stage(folder: Path, name: str, seconds: str, at: float) -> None:
    path = folder / ".dvc/tmp/seconds" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(seconds)
    os.utime(path, (at, at))


def test_commit_date_duration_machine_and_versions_stand_in_the_copy(folder):
    stage(folder, "base", "35.2", 1_700_000_000)
    stage(folder, "train", "61.4", 1_700_000_100)
    page = write_made()
    assert page is not None
    text = page.read_text("utf-8")
    assert git(folder, "rev-parse", "HEAD")[:12] in text
    assert datetime.fromtimestamp(1_700_000_100, UTC).astimezone().strftime("%Y-%m-%d %H:%M") in text
    assert "97 s for the stages that ran here: base 35, train 61" in text
    assert platform.machine() in text
    assert f"python {platform.python_version()}" in text
    assert "No date." not in text
    assert text.startswith("<h2>Provenance</h2>")
    assert english((folder / "data/made/index.zh-TW.html").read_text("utf-8")) == []
    assert (folder / "data/report/index.html").read_text() == SENTENCE


def test_uncommitted_edits_of_the_code_are_told(folder):
    assert not made(Path()).edited
    (folder / "dvc.yaml").write_text("stages: {base: {cmd: c}}")
    assert made(Path()).edited


def test_a_run_in_which_nothing_ran_says_so(folder):
    assert "everything came from the cache" in write_made().read_text("utf-8")


def test_a_run_in_a_workspace_has_the_facts_of_its_record(folder):
    created = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    Run(name="a", commit="c" * 40, snapshot="d" * 40, created=created, seconds={"train": 5.0}).write(folder)
    facts = made(folder)
    assert (facts.commit, facts.edited, facts.seconds) == ("c" * 40, True, {"train": 5.0})


def test_without_a_report_nothing_is_written(folder):
    for page in (folder / "data/report").iterdir():
        page.unlink()
    assert write_made() is None
    assert not (folder / "data/made").exists()


def test_a_folder_without_a_commit_has_a_page_as_well(folder):
    git(folder, "update-ref", "-d", "HEAD")
    assert "no commit yet" in write_made().read_text("utf-8")
