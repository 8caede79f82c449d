"""All of `params.yaml` as checked, immutable values. In: YAML. Out: `Params`, or one sentence that names every mistake.

There is one block per stage; `model` and `seed` belong to several stages. A field has the name that it has in the
library that uses the value (TRL, PEFT, vLLM); `data_size`, `support_ratio` and `num_epoch` are the course's names.
Every process reads the parameters, so nothing in this package imports torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from stance.config.data import FolderDataset, GitDataset, Pairs
from stance.config.evaluation import Answers, Evaluate
from stance.config.models import FolderBase, HubBase, MiniatureBase, Model, PackageBase
from stance.config.release import Hub
from stance.config.road import Align, Reward, Rl, Sample
from stance.config.section import Section
from stance.config.training import Merge, Sft, Train
from stance.errors import InputError
from stance.machine.files import read_yaml

SOURCES = {"folder", "git", "hub", "package", "miniature", "none", "base_model", "endpoint"}
"""Values of `source`. pydantic puts them between the block and the key when it names a wrong value."""


class Params(Section):
    """All parameters of a run."""

    seed: int = Field(ge=0)
    """Seed of the random numbers: the adapter's first weights, dropout, the order of the pairs, and the miniature."""
    model: Model
    dataset: Annotated[FolderDataset | GitDataset, Field(discriminator="source")]
    base: Annotated[HubBase | FolderBase | PackageBase | MiniatureBase, Field(discriminator="source")]
    pairs: Pairs
    align: Align = Align(method="dpo")
    sft: Sft | None = None
    """Fine-tuning before the alignment; null leaves it out."""
    sample: Sample | None = None
    """Several answers per question, for people or a model to rank; null draws none."""
    train: Train
    reward: Reward | None = None
    """Reward model of the reinforcement learning; null if there is none."""
    rl: Rl | None = None
    """Reinforcement learning; needed where `align.method` is `rlhf`."""
    merge: Merge
    answers: Answers
    evaluate: Evaluate
    hub: Hub

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = []
        if self.model.device == "cpu" and self.train.optim != "adamw_torch":
            problems.append(
                f"train.optim is {self.train.optim}, which needs a GPU, but model.device is cpu; "
                "set train.optim to adamw_torch"
            )
        if self.model.device == "cpu" and self.answers.quantization != "none":
            problems.append(
                f"answers.quantization is {self.answers.quantization}, which vLLM supports only on a GPU, but "
                "model.device is cpu; set it to none"
            )
        batch, devices = self.train.global_batch_size, self.model.devices
        if batch % devices:
            numbers = ", ".join(str(number) for number in range(1, batch + 1) if batch % number == 0)
            problems.append(
                f"model.devices is {devices}, which does not divide train.global_batch_size {batch}; set it to one of "
                f"{numbers}, or choose another batch"
            )
        if self.dataset.side_effects and not self.evaluate.side_effects:
            problems.append(
                "dataset.side_effects names a folder, but evaluate.side_effects holds no bounds; copy the block from "
                "profiles/smollm2-135m.yaml, or set it to null"
            )
        if self.pairs.retained and not self.dataset.side_effects:
            problems.append(
                f"pairs.retained is {self.pairs.retained}, but dataset.side_effects names no folder with prompts; name "
                "one, or set pairs.retained to 0"
            )
        if self.train.max_drift and not self.dataset.side_effects:
            problems.append(
                f"train.max_drift is {self.train.max_drift:g}, but dataset.side_effects names no folder with unrelated "
                "prompts; name one, or set train.max_drift to null"
            )
        problems += self._on_the_road() + self._on_the_hub()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def fine_tunes(self) -> bool:
        """Whether a fine-tuning precedes the alignment."""
        return self.sft is not None and self.sft.num_epoch > 0

    @property
    def fine_tunes_adapter(self) -> bool:
        """Whether that fine-tuning trains an adapter, which the next training goes on with."""
        return self.fine_tunes and not self.fine_tunes_whole

    @property
    def fine_tunes_whole(self) -> bool:
        """Whether that fine-tuning trains all weights, so that the adapter belongs to them and not to the base."""
        return self.fine_tunes and self.sft is not None and self.sft.method == "full"

    def _on_the_road(self) -> list[str]:
        """Return which blocks the chosen method lacks, and the bound that it does not measure."""
        if self.align.method == "dpo":
            return []
        if self.train.max_drift:
            return [
                f"train.max_drift is {self.train.max_drift:g}, but only align.method dpo measures it; set it to null"
            ]
        if self.rl is None:
            return ["align.method is rlhf, but rl is null; copy the block from profiles/miniature-rlhf.yaml"]
        if self.rl.reward_model_weight and self.reward is None:
            return [
                f"rl.reward_model_weight is {self.rl.reward_model_weight:g}, but reward is null, so that there is no "
                "reward model; copy the block from profiles/miniature-rlhf.yaml, or set the weight to 0"
            ]
        if self.rl.reward_model_weight and self.reward and self.reward.source != "preferences" and not self.sample:
            return [
                f"reward.source is {self.reward.source}, which are about sampled answers, but sample is null; copy the "
                "block from profiles/miniature-rlhf.yaml, or set reward.source to preferences"
            ]
        return []

    def _on_the_hub(self) -> list[str]:
        """Return which repositories a push lacks. After a fine-tuning of all weights it publishes no adapter."""
        hub = self.hub
        if hub.push and self.fine_tunes_whole and not hub.merged_repo_id:
            return ["hub.push is true and hub.merged_repo_id is null; name the repository, like someone/stance-merged"]
        if hub.push and not self.fine_tunes_whole and len({hub.adapter_repo_id, hub.merged_repo_id} - {None}) < 2:
            return [
                "hub.push is true and hub.adapter_repo_id and hub.merged_repo_id are not two repositories; name them, "
                "like someone/stance-adapter and someone/stance-merged"
            ]
        return []

    @classmethod
    def load(cls, path: Path = Path("params.yaml")) -> Self:
        """Read and check a file of parameters.

        Raises:
            InputError: The file is missing or not YAML, or parameters are unknown, missing or out of range. The message
                names all of them.
        """
        return cls.parse(read_yaml(path), str(path))

    @classmethod
    def parse(cls, values: Mapping[str, Any], name: str) -> Self:
        """Check values; `name` tells in an error where they come from.

        Raises:
            InputError: Parameters are unknown, missing or out of range. The message names all of them.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(f"{name}: {'; '.join(map(_sentence, error.errors()))}") from None


def _sentence(problem: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for depth, part in enumerate(problem["loc"]) if depth == 0 or part not in SOURCES)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{where}: there is no such parameter; remove it or correct its spelling"
    if problem["type"] == "value_error":
        return message
    value = "" if problem["type"] == "missing" else f" (found {problem['input']!r})"
    return f"{where}: {message[0].lower()}{message[1:]}{value}"
