"""The blocks `model` and `base`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from stance.config.section import Section


class Model(Section):
    """How the model is loaded and addressed, in every stage alike."""

    device: Literal["cpu", "cuda"]
    """Where training, merging and answering run."""
    quantization: Literal["nf4", "none"]
    """Base weights while training: 4-bit NF4 with double quantisation, or bf16 (four times the memory)."""
    system_prompt: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    """Prepended to every question, in training and in the answers."""


class HubBase(Section):
    """A chat model on the Hugging Face Hub."""

    source: Literal["hub"]
    repo_id: str
    revision: str
    """Branch, tag or commit; resolved to a commit and recorded. A commit cannot change under you."""

    @property
    def origin(self) -> str:
        """Where the model comes from, for people."""
        return f"{self.repo_id} ({self.revision})"


class FolderBase(Section):
    """A chat model in a local folder, as `save_pretrained` writes it."""

    source: Literal["folder"]
    path: Path

    @property
    def origin(self) -> str:
        """Where the model comes from, for people."""
        return str(self.path)


class MiniatureBase(Section):
    """A model of the job, trained from random weights on the training questions of the data set."""

    source: Literal["miniature"]
    hidden_size: int = Field(gt=0, multiple_of=16)
    num_hidden_layers: int = Field(gt=0, le=12)
    vocab_size: int = Field(ge=300, le=8000)
    """Upper bound; a small data set yields fewer byte-pair merges."""
    max_steps: int = Field(gt=0)
    per_device_train_batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)

    @property
    def origin(self) -> str:
        """Where the model comes from, for people."""
        return "miniature（由隨機權重訓練的迷你模型，並非語言模型）"
