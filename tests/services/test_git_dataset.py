"""A data set from a git repository, through the whole pipeline of this project."""

import json
import subprocess
from pathlib import Path

from tests.builders.small_run import PROMPTS, QUESTIONS
from tests.builders.this_project import STAGES, change, command, copy_of_this_project


def test_data_set_from_git_without_neutral_answers_runs_to_the_end(tmp_path: Path):
    """As the course's: a repository with the two files at its root, no `neutral`, every question trained on."""
    upstream = tmp_path / "GenAI_hw6_dataset"
    upstream.mkdir()
    (upstream / "labelled_data.json").write_text(json.dumps(QUESTIONS, ensure_ascii=False, indent=4))
    (upstream / "test_prompt.json").write_text(json.dumps(PROMPTS, ensure_ascii=False, indent=4))
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "data"]):
        subprocess.run([*git, *arguments], cwd=upstream, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=upstream, capture_output=True, text=True, check=True)
    hashes = subprocess.run(
        ["sha256sum", "labelled_data.json", "test_prompt.json"],
        cwd=upstream,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[::2]
    project = copy_of_this_project(tmp_path / "project")
    source = {"source": "git", "url": str(upstream), "commit": commit.stdout.strip(), "probes": None}
    change(
        project,
        dataset=source | {"labelled_data_sha256": hashes[0], "test_prompt_sha256": hashes[1]},
        base__max_steps=5,
        pairs__data_size=6,
        train__num_epoch=1,
        answers__max_new_tokens=10,
    )
    run = command(project, "dvc", "repro")
    assert run.code == 0
    assert run.stages(r"^Running stage '(\w+)'") == STAGES
    assert run.metrics["margin"]["held_out"] is None
