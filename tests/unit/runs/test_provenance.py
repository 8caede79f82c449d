"""A release is named by its lock, and says which run made it."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from stance.data.records import in_words, write_gates
from stance.errors import InputError
from stance.machine.files import write_json
from stance.runs.lockfile import changed
from stance.runs.provenance import provenance, release_id
from tests.builders.served_run import GATE

LOCK = "schema: '2.0'\nstages:\n  merge:\n    cmd: make\n    outs:\n    - path: data/merged\n      md5: abc.dir\n"


@pytest.fixture
def run(tmp_path: Path, git) -> Path:
    """A finished run in a git repository, as far as provenance looks at one."""
    (tmp_path / "tasks").mkdir()
    for name, text in (("dvc.lock", LOCK), ("dvc.yaml", ""), ("params.yaml", "seed: 7\n"), ("tasks/train.py", "")):
        (tmp_path / name).write_text(text)
    write_gates(tmp_path / "data/evaluation/gates.json", [GATE])
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "run")
    return tmp_path


def test_provenance_names_commit_parameters_outputs_and_gates(run, git):
    found = provenance(run, run / "data/release")
    assert found == {
        "release": f"r-{hashlib.sha256(LOCK.encode()).hexdigest()[:12]}",
        "released": False,
        "commit": git(run, "rev-parse", "HEAD").strip(),
        "edited": False,
        "changed": [],
        "params": {"seed": 7},
        "outputs": {"merge": {"data/merged": "abc.dir"}},
        "gates": [in_words(GATE)],
        "hub": None,
    }
    json.dumps(found)


def test_what_was_released_names_the_commits_on_the_hub_and_another_run_does_not(run):
    release = run / "data/release"
    write_json(release / "release.json", {"release": release_id(run)})
    pushed = {"adapter": {"commit": "1" * 40, "tag": release_id(run)}}
    write_json(release / "push.json", pushed)
    found = provenance(run, release)
    assert (found["released"], found["hub"]) == (True, pushed)
    write_json(release / "push.json", {"adapter": {"commit": "2" * 40, "tag": "r-of-another"}})
    assert provenance(run, release)["hub"] is None
    (run / "dvc.lock").write_text(LOCK.replace("abc", "def"))
    found = provenance(run, release)
    assert (found["released"], found["hub"]) == (False, None)


def test_uncommitted_code_is_named_and_changed_results_are_not_code(run):
    (run / "dvc.lock").write_text(LOCK + "# another\n")
    assert not provenance(run, run / "none")["edited"]
    (run / "tasks/train.py").write_text("pass\n")
    assert provenance(run, run / "none")["edited"]


def test_what_the_model_was_not_made_from_is_named(run):
    lock = yaml.safe_load(LOCK)
    code = run / "tasks/train.py"
    lock["stages"]["merge"] |= {
        "deps": [{"path": "tasks/train.py", "md5": hashlib.md5(code.read_bytes()).hexdigest()}],
        "params": {"params.yaml": {"seed": 7, "train.beta": None}},
    }
    (run / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert changed(run) == []
    code.write_text("pass\n")
    (run / "params.yaml").write_text("seed: 8\ntrain:\n  beta: 0.1\n")
    assert changed(run) == ["seed", "tasks/train.py", "train.beta"]


def test_a_folder_in_which_nothing_ran_has_no_release(tmp_path):
    with pytest.raises(InputError, match="expected a finished run: `make repro` first"):
        release_id(tmp_path)
