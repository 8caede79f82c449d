"""The blocks `dataset` and `pairs` of `params.yaml`: which questions there are, and which pairs are made of them."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stance.config.section import Commit, Section, Sha256

IN_ADDRESS = re.compile(r"https?://[^/\s@]+@|://[^/\s@:]+:[^/\s@]+@")
"""A password or token in an address. Over HTTP a user name alone counts, because GitHub and GitLab take tokens
there."""


def without_password(url: str) -> str:
    """Return the address of a git repository.

    Raises:
        ValueError: It holds a password or a token, which would be written to locks, logs and releases.
    """
    if IN_ADDRESS.search(url):
        raise ValueError(
            "dataset.url holds a password or a token, and would be logged and published; store it in git's credential "
            "helper, or use an address like git@github.com:someone/data.git"
        )
    return url


class FolderDataset(Section):
    """A data set in a local folder. DVC notices edits only below `data/sources`."""

    source: Literal["folder"]
    path: Path
    """Folder that holds `labelled_data.json` and `test_prompt.json`."""
    probes: Path | None
    """File in `data/sources` with prompts that measure how far the stance reaches; null for no such prompts."""
    side_effects: Path | None = None
    """Folder in `data/sources/side_effects` with prompts that show what else the alignment changes, and with unrelated
    prompts whose answers the training can keep; null for no such prompts."""

    @property
    def origin(self) -> str:
        """Where the data set comes from, for people."""
        return str(self.path)

    @property
    def topic(self) -> str:
        """The name of the topic: that of the folder."""
        return self.path.name


class GitDataset(Section):
    """A data set at the root of a git repository, at one commit and with known hashes."""

    source: Literal["git"]
    url: Annotated[str, AfterValidator(without_password)]
    """Address that `git fetch` understands, without a password."""
    commit: Commit
    """Full commit id, 40 hexadecimal digits."""
    labelled_data_sha256: Sha256
    """SHA-256 of `labelled_data.json`; a file with another hash is refused."""
    test_prompt_sha256: Sha256
    """SHA-256 of `test_prompt.json`; a file with another hash is refused."""
    probes: Path | None
    """Local file in `data/sources` with prompts that measure how far the stance reaches; null for no such prompts."""
    side_effects: Path | None = None
    """Folder in `data/sources/side_effects` with prompts that show what else the alignment changes, and with unrelated
    prompts whose answers the training can keep; null for no such prompts."""

    @property
    def origin(self) -> str:
        """Where the data set comes from, for people."""
        return f"{self.url} ({self.commit})"

    @property
    def topic(self) -> str:
        """The name of the topic: that of the repository."""
        return self.url.rstrip("/").rpartition("/")[2].removesuffix(".git")


class Pairs(Section):
    """Which questions become preference pairs, and which stance each pair prefers."""

    data_size: int = Field(gt=0)
    """Number of questions to train on, counted from `offset`. The other questions are held out."""
    offset: int = Field(ge=0)
    """Number of questions to skip before the first one to train on. Skipped questions move to the end of the list."""
    support_ratio: Decimal = Field(ge=0, le=1)
    """Share of the pairs that prefer `support`, from 0 to 1. The other pairs prefer `oppose`."""
    order: Literal["first", "interleaved", "shuffled", "both"]
    """Which pairs prefer `support`. `first`: the first ones, as in the course. `interleaved`: evenly spread.
    `shuffled`: drawn at random with `seed`. `both`: every question makes two pairs, and the first ones of this longer
    list prefer `support`; with a `support_ratio` of 0.5 every question then goes both ways."""
    rejected: Literal["opposite", "base"]
    """The rejected answer. `opposite`: the answer of the other stance. `base`: the base model's own answer where that
    answer is neutral, else the answer of the other stance."""
    retained: int = Field(0, ge=0)
    """Number of unrelated prompts whose answers the training keeps, out of `retained.jsonl` in `dataset.side_effects`.
    They are the base model's own answers; `train.retained` says how they are kept. 0 keeps none."""
    strict: bool
    """Whether a warning of the data linter stops the run. Otherwise warnings are only listed in
    `data/pairs/lint.json`."""
