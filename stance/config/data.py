"""The blocks `dataset` and `pairs`."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stance.config.section import Commit, Section, Sha256

IN_ADDRESS = re.compile(r"https?://[^/\s@]+@|://[^/\s@:]+:[^/\s@]+@")
"""A password or a token in an address; over HTTP the user alone is one, as GitHub and GitLab take it."""


def without_password(url: str) -> str:
    """Return an address; raise ValueError if it holds what would be written to locks, logs and releases."""
    if IN_ADDRESS.search(url):
        raise ValueError(
            "dataset.url holds a password or a token, and would be logged and published; leave it to git's credential "
            "helper, or take an address like git@github.com:someone/data.git"
        )
    return url


class FolderDataset(Section):
    """Two files in a local folder; DVC sees edits to folders below `data/sources`."""

    source: Literal["folder"]
    path: Path
    """Folder with `labelled_data.json` and `test_prompt.json`."""
    probes: Path | None
    """File of prompts that ask how far the stance reaches, in `data/sources`, or null for none."""

    @property
    def origin(self) -> str:
        """Where the data set comes from, for people."""
        return str(self.path)


class GitDataset(Section):
    """Two files at the root of a git repository, at one commit, with known hashes."""

    source: Literal["git"]
    url: Annotated[str, AfterValidator(without_password)]
    """Anything `git fetch` understands."""
    commit: Commit
    labelled_data_sha256: Sha256
    test_prompt_sha256: Sha256
    probes: Path | None
    """As for a folder; a local file."""

    @property
    def origin(self) -> str:
        """Where the data set comes from, for people."""
        return f"{self.url} ({self.commit})"


class Pairs(Section):
    """Which questions become preference pairs, and in which direction."""

    data_size: int = Field(gt=0)
    """Questions used, from the one at `offset`; the rest is held out."""
    offset: int = Field(ge=0)
    """Questions passed over before the first that is used; they come after the last one."""
    support_ratio: Decimal = Field(ge=0, le=1)
    """Share of the pairs that prefer `support`; the rest prefers `oppose`."""
    order: Literal["first", "interleaved", "shuffled", "both"]
    """Which pairs prefer `support`: the first ones (as in the course), evenly spread, drawn with `seed`; or the first
    ones of twice as many pairs, every question standing there twice, so that at one half each goes both ways."""
    rejected: Literal["opposite", "base"]
    """What is not preferred: the answer of the opposite stance, or the base model's own where that takes no stance."""
    strict: bool
    """Whether what the linter finds in the data - `data/pairs/lint.json` - is an error."""
