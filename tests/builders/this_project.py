"""A copy of this project, and commands typed in it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stance.config.profiles import PROFILES

STAGES = {
    "dataset", "base", "classifier", "answers_base", "pairs", "sft", "sample", "reward", "rl", "train", "merge",
    "answers_aligned", "judge", "evaluate", "report",
}  # fmt: skip
"""The stages of `dvc.yaml`."""


class Run(NamedTuple):
    """One command, and what it left behind."""

    code: int
    log: str
    seconds: float
    metrics: dict[str, Any]

    def stages(self, pattern: str) -> set[str]:
        """The stages of which the log says something."""
        return set(re.findall(pattern, self.log, re.MULTILINE))


def command(project: Path, *arguments: str, patience: float = 1200, **variables: str) -> Run:
    """Run `python -m ARGUMENTS` in a project, and give up after `patience` seconds."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PREFECT_HOME": str(project.parent / "prefect"),
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "DVC_NO_ANALYTICS": "1",
        "TQDM_DISABLE": "1",
        **variables,
    }
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=project, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=patience,
    )  # fmt: skip
    print(done.stdout)
    metrics = project / "data/evaluation/metrics.json"
    found = json.loads(metrics.read_text()) if metrics.exists() else {}
    return Run(done.returncode, done.stdout, time.monotonic() - began, found)


def copy_of_this_project(folder: Path, profile: str = "miniature") -> Path:
    """What a clone would hold after `make profile`, uncommitted edits included."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if Path(name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    shutil.copy(PROFILES / f"{profile}.yaml", folder / "params.yaml")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
    return folder


def change(project: Path, **values: Any) -> None:
    """Set parameters; `__` stands for the dot."""
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for key, value in values.items():
        block, _, leaf = key.partition("__")
        params[block] = {**params[block], leaf: value} if leaf else value
    path.write_text(yaml.safe_dump(params, allow_unicode=True))
