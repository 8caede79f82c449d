"""A release is named by its lock, and says which run made it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stance.data.records import in_words
from stance.errors import InputError
from stance.machine.files import write_json
from stance.runs.finished import FinishedRun
from stance.runs.lockfile import Lock
from stance.runs.provenance import provenance, release_id
from stance.runs.released import Release
from tests.builders.finished_run import computed_gates, make_another_release, write_run

RELEASE = {
    "release": "r-0",
    "run": "mine",
    "at": "2026-01-01T00:00:00+00:00",
    "test_prompts": [{"id": 1, "prompt": "好嗎？"}],
    "stance": "support",
    "adherence": {"stance": "support", "mixed": False, "share": 0.5, "low": 0.1, "high": 0.9, "count": 1, "total": 2},
}


@pytest.fixture
def run(tmp_path: Path, git) -> Path:
    """A finished run in a git repository, beside some code."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/train.py").touch()
    write_run(tmp_path)
    return tmp_path


def read(run: Path, release: Path | None = None) -> dict[str, Any]:
    return provenance(FinishedRun.read(run), release or run / "none")


def test_provenance_names_commit_parameters_outputs_and_gates(run, git):
    found = read(run, run / "data/release")
    stages = yaml.safe_load((run / "dvc.lock").read_text())["stages"]
    assert found == {
        "release": f"r-{hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()[:12]}",
        "released": False,
        "commit": git(run, "rev-parse", "HEAD").strip(),
        "edited": False,
        "params": yaml.safe_load((run / "params.yaml").read_text()),
        "outputs": {stage: {out["path"]: out["md5"] for out in entry["outs"]} for stage, entry in stages.items()},
        "gates": [in_words(gate) for gate in computed_gates(run)],
        "hub": None,
    }
    json.dumps(found)


def test_what_was_released_names_the_commits_on_the_hub_and_another_run_does_not(run):
    release = run / "data/release"
    write_json(release / "release.json", RELEASE | {"release": release_id(run)})
    adapter = {
        "repo_id": "a/b", "url": "https://hub/a/b", "commit": "1" * 40, "tag": release_id(run),
        "files": {"README.md": {"sha256": "0" * 64, "size": 7}},
    }  # fmt: skip
    write_json(release / "push.json", {"adapter": adapter})
    found = read(run, release)
    assert (found["released"], found["hub"]) == (True, {"adapter": adapter})
    write_json(release / "push.json", {"adapter": adapter | {"tag": "r-of-another"}})
    assert read(run, release)["hub"] is None
    make_another_release(run)
    found = read(run, release)
    assert (found["released"], found["hub"]) == (False, None)


def test_a_comment_or_a_space_in_the_lock_makes_no_other_release(run):
    before = release_id(run)
    lock = run / "dvc.lock"
    lock.write_text(f"# by hand\n{lock.read_text()}\n")
    assert release_id(run) == before
    make_another_release(run)
    assert release_id(run) != before


def test_uncommitted_code_is_named_and_changed_results_are_not_code(run):
    (run / "data/notes.txt").touch()
    assert not read(run)["edited"]
    (run / "tasks/train.py").write_text("pass\n")
    assert read(run)["edited"]


def test_what_the_model_was_not_made_from_is_named(run):
    code = run / "tasks/train.py"
    code.write_text("")
    deps = [{"path": "tasks/train.py", "md5": hashlib.md5(b"").hexdigest()}]
    merge = {"deps": deps, "params": {"params.yaml": {"seed": 7, "train.beta": None}}}
    lock = Lock.parse(yaml.safe_dump({"stages": {"merge": merge}}).encode(), run / "dvc.lock")
    assert lock.changed(run, {"seed": 7}) == []
    code.write_text("pass\n")
    assert lock.changed(run, {"seed": 8, "train": {"beta": 0.1}}) == ["seed", "tasks/train.py", "train.beta"]


def test_a_folder_in_which_nothing_ran_has_no_release(tmp_path):
    with pytest.raises(InputError, match="expected a finished run: `make repro` first"):
        release_id(tmp_path)


def test_the_record_of_a_release_keeps_its_bytes(tmp_path):
    write_json(tmp_path / "release.json", RELEASE)
    before = (tmp_path / "release.json").read_bytes()
    record = Release.last(tmp_path)
    assert record is not None
    record.write(tmp_path)
    assert (tmp_path / "release.json").read_bytes() == before
    assert Release.last(tmp_path / "none") is None


@pytest.mark.parametrize("content", [{}, RELEASE | {"extra": 1}, RELEASE | {"adherence": {"share": 0.5}}, []])
def test_the_record_of_a_release_in_another_format_is_refused_with_advice(tmp_path, content):
    write_json(tmp_path / "release.json", content)
    with pytest.raises(InputError, match=r"release\.json is not in the format .*move the folder data/release away"):
        Release.last(tmp_path)
