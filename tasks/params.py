"""`params.yaml` as frozen, checked values: one model per block, one block per stage.

`model` and `seed` belong to several stages. Field names are those of the library that takes the value (TRL, PEFT,
vLLM); `data_size`, `support_ratio` and `num_epoch` are the course's. Nothing here imports torch: every process parses
parameters, and some want to do so within milliseconds.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from tasks.errors import InputError

PROFILES = Path("profiles")
SOURCES = {
    "folder",
    "git",
    "hub",
    "miniature",
    "none",
    "base_model",
    "endpoint",
}  # pydantic puts the kind of a union between its block and the key

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
RepoId = Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]


Loss = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip
"""TRL's."""


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


def with_port(url: str) -> str:
    """Return an address; raise ValueError if its host or port is none."""
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise ValueError(f"evaluate.judge.url is {url!r} ({error}); expected one like http://host:8000/v1") from None
    return url


class Section(BaseModel):
    """A block of `params.yaml`: immutable, and without room for a misspelt key."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Model(Section):
    """How the model is loaded and addressed, in every stage alike."""

    device: Literal["cpu", "cuda"]
    """Where training, merging and answering run."""
    quantization: Literal["nf4", "none"]
    """Base weights while training: 4-bit NF4 with double quantisation, or bf16 (four times the memory)."""
    system_prompt: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    """Prepended to every question, in training and in the answers."""


class FolderDataset(Section):
    """Two files in a local folder; DVC sees edits to folders below `data/sources`."""

    source: Literal["folder"]
    path: Path
    """Folder with `labelled_data.json` and `test_prompt.json`."""
    probes: Path | None
    """File of prompts that ask how far the stance reaches, in `data/sources`, or null for none."""


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


class HubBase(Section):
    """A chat model on the Hugging Face Hub."""

    source: Literal["hub"]
    repo_id: str
    revision: str
    """Branch, tag or commit; resolved to a commit and recorded. A commit cannot change under you."""


class FolderBase(Section):
    """A chat model in a local folder, as `save_pretrained` writes it."""

    source: Literal["folder"]
    path: Path


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


class Train(Section):
    """Direct Preference Optimization of a LoRA adapter."""

    num_epoch: float = Field(gt=0)
    """Passes over all pairs."""
    beta: float = Field(gt=0)
    """How strongly the policy is held to the reference; higher stays closer."""
    loss_type: tuple[Loss, ...] = Field(min_length=1)
    """TRL's losses, summed with `loss_weights`; `sft` is the log-likelihood of the chosen answer."""
    loss_weights: tuple[float, ...]
    label_smoothing: float = Field(ge=0, lt=0.5)
    """Share of the pairs that are taken to be labelled the wrong way round; `robust`, `exo_pair` and `aot` have it."""
    learning_rate: float = Field(gt=0)
    """The highest of the schedule; TRL advises some 1e-5 for LoRA, the course takes 2e-4."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    warmup_steps: float = Field(ge=0)
    """Below 1 a fraction of all steps, else a number of steps."""
    optim: Literal["adamw_torch", "paged_adamw_8bit", "adamw_8bit", "paged_adamw_32bit"]
    global_batch_size: int = Field(gt=0)
    """Pairs per optimiser step. It decides the result; the two factors that it is made of decide memory and speed."""
    per_device_train_batch_size: int = Field(gt=0)
    """Pairs that are computed at once; `python -m tasks.fit` says how many fit and suggests."""
    gradient_accumulation_steps: int = Field(gt=0)
    max_length: int = Field(gt=0)
    """Tokens of prompt and answer; longer answers are cut, and a prompt that leaves no room for one is refused."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, a third more time."""
    precompute_ref_log_probs: bool
    """Reference log-probabilities once, before training, instead of in every step. Not on a 4-bit CPU base."""
    r: int = Field(gt=0)
    """LoRA rank."""
    lora_alpha: int = Field(gt=0)
    """LoRA scale; the update is multiplied by `lora_alpha / r`."""
    lora_dropout: float = Field(ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"]
    """Layers that get an adapter."""
    save_steps: int = Field(gt=0)
    """Optimiser steps between two checkpoints."""
    max_chosen_fall: float = Field(gt=0)
    """Nats that `logps/chosen` may lose, over three steps on average, before the training is stopped."""
    max_margin: float = Field(gt=0)
    """Reward margin beyond which, over three steps on average, the training is stopped."""

    @model_validator(mode="after")
    def _batch_is_its_factors(self) -> Self:
        micro, accumulated = self.per_device_train_batch_size, self.gradient_accumulation_steps
        if micro * accumulated != self.global_batch_size:
            raise ValueError(
                f"train.global_batch_size is {self.global_batch_size}, and per_device_train_batch_size {micro} x "
                f"gradient_accumulation_steps {accumulated} is {micro * accumulated}; make them equal"
            )
        return self

    @model_validator(mode="after")
    def _smoothing_is_for_a_loss_that_has_it(self) -> Self:
        smoothed = {"robust", "exo_pair", "aot", "aot_unpaired"} & set(self.loss_type)
        if self.label_smoothing and not smoothed:
            raise ValueError(
                f"train.label_smoothing is {self.label_smoothing}, and no loss of {', '.join(self.loss_type)} has it; "
                "set it to 0, or take robust, exo_pair, aot or aot_unpaired"
            )
        if "exo_pair" in smoothed and not self.label_smoothing:
            raise ValueError("train.label_smoothing is 0, and the loss exo_pair needs more; set it to 0.001")
        return self

    @model_validator(mode="after")
    def _one_weight_per_loss(self) -> Self:
        if len(self.loss_type) != len(self.loss_weights):
            raise ValueError(
                f"loss_type has {len(self.loss_type)} entries and loss_weights {len(self.loss_weights)}; "
                "give every loss its weight"
            )
        return self


class Merge(Section):
    """Adapter into base; the bounds are those of the parity gate."""

    base: Literal["measured", "original", "dequantized"]
    """Weights the adapter is added to: bf16 as published, dequantised NF4, or whichever drifts less."""
    max_mean_drift: float = Field(gt=0)
    """Nats per token, mean over all tokens of the pair texts."""
    max_worst_drift: float = Field(gt=0)
    """Nats per token, worst token."""


class Answers(Section):
    """Greedy answers with vLLM."""

    max_new_tokens: int = Field(gt=0)
    gpu_memory_utilization: float = Field(gt=0, le=1)
    """Upper bound of the engine's share of GPU memory (of host memory on a CPU); less is used if less is free."""
    enforce_eager: bool
    """Decode without CUDA graphs, at half the speed. A CPU has none."""
    quantization: Literal["none", "bitsandbytes"]
    """vLLM's weights: as they are, or in 4 bits where bf16 does not fit; these answer slightly differently."""


class NoJudge(Section):
    """The wording alone decides what stance an answer takes."""

    source: Literal["none"]


class BaseJudge(Section):
    """The base model reads every answer as well, with vLLM; its choice is bound to the three stances."""

    source: Literal["base_model"]


class EndpointJudge(Section):
    """A model behind an OpenAI-style endpoint reads every answer as well; its key, if any, is OPENAI_API_KEY."""

    source: Literal["endpoint"]
    url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$"), AfterValidator(with_port)]
    """As an OpenAI client takes it, like `http://127.0.0.1:8000/v1`."""
    model: str
    """The name that the endpoint knows it by."""


class Evaluate(Section):
    """The second judge, and the bounds of the gates."""

    judge: Annotated[NoJudge | BaseJudge | EndpointJudge, Field(discriminator="source")]
    """Who reads the answers besides the judge by wording, which decides: agreement is a check on it."""

    min_adherence: float = Field(ge=0, le=1)
    """Share of test answers that must hold the chosen stance."""
    max_degenerate: float = Field(ge=0, le=1)
    """Share of test answers that may be empty, cut off, repetitive or in the wrong script."""
    max_chosen_fall: float = Field(gt=0)
    """Nats by which `logps/chosen` may fall over the training (DPO can lower it along with the rejected answer's)."""


class Hub(Section):
    """What goes to the Hugging Face Hub."""

    push: bool
    """Whether a release goes to the Hub as well; a token that may write is then wanted before anything expensive."""
    adapter_repo_id: RepoId | None
    """OWNER/NAME of the repository that gets the adapter."""
    merged_repo_id: RepoId | None
    """OWNER/NAME of the repository that gets the merged model."""
    private: bool
    """Whether the repositories are made so that only their owner sees them."""

    @model_validator(mode="after")
    def _push_knows_where(self) -> Self:
        named = {self.adapter_repo_id, self.merged_repo_id} - {None}
        if self.push and len(named) < 2:
            raise ValueError(
                "hub.push is true and hub.adapter_repo_id and hub.merged_repo_id are not two repositories; name them, "
                "like someone/stance-adapter and someone/stance-merged"
            )
        return self


class Params(Section):
    """All of `params.yaml`."""

    seed: int = Field(ge=0)
    """Decides the adapter's first weights, dropout, and the order of the pairs."""
    model: Model
    dataset: Annotated[FolderDataset | GitDataset, Field(discriminator="source")]
    base: Annotated[HubBase | FolderBase | MiniatureBase, Field(discriminator="source")]
    pairs: Pairs
    train: Train
    merge: Merge
    answers: Answers
    evaluate: Evaluate
    hub: Hub

    @model_validator(mode="after")
    def _cpu_can_do_it(self) -> Self:
        problems = []
        if self.model.device == "cpu" and self.train.optim != "adamw_torch":
            problems.append(
                f"train.optim is {self.train.optim}, which needs a GPU, and model.device is cpu; "
                "set train.optim to adamw_torch"
            )
        if self.model.device == "cpu" and self.model.quantization == "nf4" and self.train.precompute_ref_log_probs:
            problems.append(
                "train.precompute_ref_log_probs is true with a 4-bit base on a CPU, where bitsandbytes then computes "
                "wrong gradients without an error; set it to false, or model.quantization to none"
            )
        if self.model.device == "cpu" and self.answers.quantization != "none":
            problems.append(
                f"answers.quantization is {self.answers.quantization}, which vLLM has on a GPU only, and model.device "
                "is cpu; set it to none"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @classmethod
    def load(cls, path: Path = Path("params.yaml")) -> Self:
        """Parse and check a file of parameters.

        Raises:
            InputError: The file is missing or not YAML, or a value is unknown, missing or out of range; names all.
        """
        return cls.parse(read_yaml(path), str(path))

    @classmethod
    def parse(cls, values: Mapping[str, Any], name: str) -> Self:
        """Check parsed values; `name` says in an error where they come from."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(f"{name}: {'; '.join(map(_sentence, error.errors()))}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; `make profile NAME=miniature` writes params.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}; correct it") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}; expected blocks of parameters")
    return values


def lookup(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key; None where there is none."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def compose(profile: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the values of a profile with some of them replaced, checked.

    Args:
        profile: Name of a file in `profiles/`, without its ending.
        overrides: Dotted key to value, as in `{"pairs.support_ratio": 0.5}`.

    Raises:
        InputError: There is no such profile, an override names no parameter, or a value is wrong.
    """
    path = PROFILES / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml")))
        raise InputError(f"there is no profile {profile!r}; expected one of {known}")
    return replaced(read_yaml(path), overrides or {}, f"profile {profile}")


def replaced(values: dict[str, Any], overrides: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Put the values of dotted keys in place, check the whole, and return it; `name` says in an error what it is."""
    for key, value in overrides.items():
        _replace(values, key, value)
    Params.parse(values, name)
    return values


def _replace(values: dict[str, Any], key: str, value: Any) -> None:
    *blocks, leaf = key.split(".")
    target: Any = values
    for block in blocks:
        target = target.get(block) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        raise InputError(f"override {key}: there is no such block; expected a key like pairs.support_ratio")
    target[leaf] = value


def _sentence(problem: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for depth, part in enumerate(problem["loc"]) if depth == 0 or part not in SOURCES)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{where}: there is no such parameter; remove it or correct its spelling"
    if problem["type"] == "value_error":
        return message
    found = "" if problem["type"] == "missing" else f" (found {problem['input']!r})"
    return f"{where}: {message[0].lower()}{message[1:]}{found}"
