"""One aligned project per session: a copy of this project after its first run, and clones of it for the tests.

In: this checkout, with its uncommitted edits. Out: the project after `flows.align`, with the base model and the run at
ratio 1 in its DVC cache. `make test` trains the base model for half of the default profile's steps (`SMALL`), and `make
soak` has the default profile. A clone shares the files of that cache. So a stage whose inputs are those
of the first run is restored in a clone, and is not run again.
"""

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tests.builders.this_project import Run, change, command, copy_of_this_project

CACHE = Path(".dvc/cache")
SMALL = {"base__max_steps": 150}
"""Half the base training of the default profile, which is the longest stage. Answers, margins and gates are as good."""
NOT_CLONED = shutil.ignore_patterns("cache", "tmp", "__pycache__")


class Aligned(NamedTuple):
    """A project, and its first run."""

    folder: Path
    run: Run

    def clone(self, folder: Path) -> Path:
        """Copy the project; the files of its cache are hard links, because nobody writes into them."""
        shutil.copytree(self.folder, folder, ignore=NOT_CLONED)
        shutil.copytree(self.folder / CACHE, folder / CACHE, copy_function=os.link)
        return folder


def align(folder: Path, **values: Any) -> Aligned:
    """Copy this project into a folder, set parameters, and run its pipeline, from the questions to the report."""
    project = copy_of_this_project(folder)
    if values:
        change(project, **values)
    return Aligned(project, command(project, "flows.align"))
