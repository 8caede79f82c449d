"""A data set from a git repository, through every stage of this project."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from stance.runs.stages import names
from tests.builders.forked_stages import Stage
from tests.builders.repository import git
from tests.builders.small_run import PROMPTS, QUESTIONS
from tests.builders.this_project import STAGES, change, copy_of_this_project

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # pygtrie's, in DVC


def test_data_set_from_git_without_neutral_answers_runs_to_the_end(stage: Stage, tmp_path: Path):
    """As the course's: a repository with the two files at its root, no `neutral`, every question trained on."""
    upstream = tmp_path / "GenAI_hw6_dataset"
    upstream.mkdir()
    (upstream / "labelled_data.json").write_text(json.dumps(QUESTIONS, ensure_ascii=False, indent=4))
    (upstream / "test_prompt.json").write_text(json.dumps(PROMPTS, ensure_ascii=False, indent=4))
    git(upstream, "init", "--quiet")
    git(upstream, "add", "--all")
    git(upstream, "commit", "--quiet", "--message", "data")
    hashes = subprocess.run(
        ["sha256sum", "labelled_data.json", "test_prompt.json"],
        cwd=upstream,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[::2]
    project = copy_of_this_project(tmp_path / "project")
    source = {"source": "git", "url": str(upstream), "commit": git(upstream, "rev-parse", "HEAD"), "probes": None}
    change(
        project,
        dataset=source | {"labelled_data_sha256": hashes[0], "test_prompt_sha256": hashes[1]},
        base__max_steps=5,
        pairs__data_size=6,
        train__num_epoch=1,
        answers__max_new_tokens=10,
    )
    stages = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    order = names(project)
    assert set(order) == STAGES
    written = {project / path for stage in stages.values() for path in paths(stage, "outs", "metrics", "plots")}
    for path in written:
        path.unlink(missing_ok=True)  # git has some of them
    for name in order:
        ended = stage(stages[name]["cmd"], project)
        assert ended.code == 0, f"{name}: {ended.err}"
    read = {project / path for stage in stages.values() for path in paths(stage, "deps")}
    assert [path for path in written | read if not path.exists()] == []
    metrics = json.loads((project / "data/evaluation/metrics.json").read_text(encoding="utf-8"))
    assert metrics["margin"]["held_out"] is None


def paths(stage: dict[str, list[str | dict[str, object]]], *keys: str) -> list[str]:
    """Return the paths that a stage of `dvc.yaml` lists; an entry is a path, or a mapping of a path to options."""
    entries = [entry for key in keys for entry in stage.get(key, [])]
    return [path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]
