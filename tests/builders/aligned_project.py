"""A copy of this project in which everything has run once, at ratio 1: made once, and copied by those that need it."""

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.builders.repository import git
from tests.builders.this_project import Run, change, command, copy_of_this_project

SMALL = {"base__max_steps": 150}
"""Half of the base training of the profile `miniature`, the longest stage; answers, margins and gates are as good.

With 100 steps, only 0.8 of the answers oppose at ratio 0, which is the bound of that test.
"""


class Aligned:
    """The project, and the run of `python -m flows.align` that filled it."""

    def __init__(self, folder: Path, api: Callable[[], str], **values: Any) -> None:
        """Make it in a folder with some parameters of its own, unless another process has, or is about to.

        `api` starts a Prefect server and returns its address; a project that is there already needs none.
        """
        folder.mkdir(exist_ok=True)
        self.project, made = folder / "project", folder / "run.json"
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                change(copy_of_this_project(self.project), **values)
                run = command(self.project, "flows.align", PREFECT_API_URL=api())
                git(self.project, "add", "--all")
                git(self.project, "commit", "--quiet", "--message", "what the run has made")
                made.write_text(json.dumps(run), encoding="utf-8")
        self.run = Run(*json.loads(made.read_text(encoding="utf-8")))
        assert self.run.code == 0, self.run.log

    def copy(self, folder: Path) -> Path:
        """Copy the project with its outputs and its cache, so that nothing has to run again."""
        return Path(shutil.copytree(self.project, folder, symlinks=True))
