"""The blocks `model` and `base` of `params.yaml`: where the base model comes from, and how it is loaded."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from stance.config.section import RepoId, Section, Sha256


class Model(Section):
    """How every stage loads the model and talks to it."""

    device: Literal["cpu", "cuda"]
    """Device on which the model is trained, merged and asked."""
    devices: int = Field(1, gt=0)
    """Number of GPUs that a run uses. The training shares its batches among them, and a model that answers is split
    over them (tensor parallelism). The merge uses one. On a CPU: the number of processes of the training."""
    quantization: Literal["nf4", "none"]
    """Precision of the base weights in training. `nf4`: 4 bits with double quantisation (QLoRA). `none`: bf16, which
    takes four times the memory of a GPU. On a CPU, 4-bit weights are dequantised once, and take as much memory."""
    system_prompt: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    """System prompt before every question, in training and when the model answers."""

    @property
    def parts(self) -> int:
        """Number of devices that a model which answers is split over; a CPU does not split it."""
        return self.devices if self.device == "cuda" else 1


class HubBase(Section):
    """The base model is a chat model on the Hugging Face Hub."""

    source: Literal["hub"]
    repo_id: str
    """OWNER/NAME of the repository."""
    revision: str
    """Branch, tag or commit. The run records the commit that it stands for. Name a commit if the model must not
    change."""

    @property
    def origin(self) -> str:
        """Where the model comes from, for people."""
        return f"{self.repo_id} ({self.revision})"


class FolderBase(Section):
    """The base model is a chat model in a local folder, as `save_pretrained` writes it."""

    source: Literal["folder"]
    path: Path
    """Folder with configuration, tokenizer and safetensors."""

    @property
    def origin(self) -> str:
        """Where the model comes from, for people."""
        return str(self.path)


class PackageBase(Section):
    """The base model is a GGUF file inside an installed Python package. The package is never imported."""

    source: Literal["package"]
    distribution: str
    """Name of the package, as pip knows it."""
    version: str
    """Version of the package. Another version is refused."""
    file: str
    """Path of the GGUF file inside the package, beginning with the package's folder."""
    sha256: Sha256
    """SHA-256 of the GGUF file. A file with another hash is refused."""
    original: RepoId
    """OWNER/NAME of the model on the Hugging Face Hub that the file was made from. Nothing is fetched; report and model
    card name it as the origin of the weights."""

    @property
    def origin(self) -> str:
        """Where the model comes from, for people."""
        return f"{self.original} ({self.distribution} {self.version})"


class MiniatureBase(Section):
    """The base model is a miniature: trained in the `base` stage, from random weights, on the training questions."""

    source: Literal["miniature"]
    hidden_size: int = Field(gt=0, multiple_of=16)
    """Width of the model; more learns more and takes longer."""
    num_hidden_layers: int = Field(gt=0, le=12)
    """Number of layers."""
    vocab_size: int = Field(ge=300, le=8000)
    """Largest number of tokens in the vocabulary. A small data set yields fewer."""
    max_steps: int = Field(gt=0)
    """Optimiser steps of its training."""
    per_device_train_batch_size: int = Field(gt=0)
    """Conversations per optimiser step."""
    learning_rate: float = Field(gt=0)
    """Highest learning rate of its schedule."""

    @property
    def origin(self) -> str:
        """Where the model comes from, for people."""
        return "miniature（由隨機權重訓練的迷你模型，並非語言模型）"
