"""The base of every block of `params.yaml`, and the kinds of text that several blocks use."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
RepoId = Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]


class Section(BaseModel):
    """A block of `params.yaml`: immutable, and without unknown keys. The docstring of a field is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
