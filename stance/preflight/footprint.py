"""GPU memory, host memory and disk that each stage will take, computed before a run.

In: a model's configuration, from which transformers builds an outline without weights. The outline gives the sizes and
the layers, so that no name of a key in the configuration is assumed.

`python -m stance footprint` prints these needs, the sizes of this machine, and the largest micro-batch that fits.
Weights, adapter and optimiser are counted exactly. The activations per token follow a rule that was fitted to
measurements (docs/performance.md). Sizes are in bytes, and in gibibytes where they are printed.
"""

import logging
import shutil
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch.nn import ModuleList
from transformers import PretrainedConfig

from stance.config.models import FolderBase, HubBase, MiniatureBase, PackageBase
from stance.config.params import Params
from stance.config.training import Train
from stance.data.questions import Question, read_questions
from stance.data.sources import source_folder
from stance.errors import InputError
from stance.machine.files import from_project
from stance.machine.memory import GIB, gib, gpu_size, memory
from stance.models import hub, package
from stance.models import outline as outlines
from stance.models.base import MODEL, RECORD, Base
from stance.models.loading import ENGINE
from stance.models.outline import adapted_layers, embedding_shape, linear_layers, outline
from stance.models.weights import CONFIG, read_config, require_whole_model

logger = logging.getLogger(__name__)


BF16, FP32 = 2, 4
NF4 = 0.5 + FP32 / 64
"""Bytes per weight: four bits, and a scale for every 64 weights."""
STATE_8_BIT, STATE_32_BIT = 2, 8
"""Bytes of Adam's two moments per parameter."""
PROCESS = 3 * GIB
"""Host memory of Python, torch and its libraries with CUDA."""
CONTEXT = 0.6 * GIB
"""GPU memory of the CUDA context and its libraries' workspaces."""
SHARD = 5 * 10**9
"""Bytes of the largest file of weights of a model on the Hub."""
TEMPLATE = 30
"""Number of tokens that a chat template adds."""
KINDS = ("GPU memory", "host memory", "disk")
"""Names of the fields of `Need` and `Here`, in their order."""
TOKENIZER, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
DESCRIPTION = (CONFIG, TOKENIZER, TEMPLATE_FILE)
"""Files that are fetched from the Hub to measure a model before its weights."""


class Sizes(NamedTuple):
    """Number of parameters of a model, and bytes per token of its activations."""

    linear: int
    """Parameters in layers that are quantised."""
    other: int
    """Parameters in embeddings, head and norms."""
    adapter: int
    """Parameters of the adapter."""
    kept: int
    """Bytes per token that the forward pass keeps for the backward pass."""
    checkpointed: int
    """The same with gradient checkpointing: the inputs of all layers, and the inside of one."""

    @property
    def bf16(self) -> int:
        """Bytes of the weights in bf16."""
        return BF16 * (self.linear + self.other)

    @property
    def nf4(self) -> int:
        """Bytes of the weights in 4 bits, the rest in bf16."""
        return int(NF4 * self.linear) + BF16 * self.other


class Need(NamedTuple):
    """Bytes that a stage takes. On a CPU the model is in host memory, and `gpu` is 0."""

    gpu: float
    host: float
    disk: float


class Here(NamedTuple):
    """Bytes that this machine has."""

    gpu: float
    """Total memory of the GPU, used or free; 0 if there is no GPU."""
    host: float
    disk: float
    """Free bytes, including those of the merged model that the run will replace."""


def sizes(config: PretrainedConfig, options: Train) -> Sizes:
    """Return the sizes of a model from its configuration.

    Raises:
        InputError: It is no causal language model, or lacks a layer that `target_modules` names.
    """
    model = outline(config)
    layers = linear_layers(model)
    linear = sum(module.weight.numel() for module in layers.values())
    chosen = adapted_layers(model, options.target_modules).values()
    adapter = sum(options.r * (module.in_features + module.out_features) for module in chosen)
    _, hidden = embedding_shape(model)
    inside = max(module.in_features for module in layers.values())
    depth = next(len(module) for module in model.modules() if isinstance(module, ModuleList))  # the outermost list
    layer = BF16 * (3 * inside + 7 * hidden)
    return Sizes(linear, model.num_parameters() - linear, adapter, layer * depth, layer + BF16 * hidden * depth)


def needs(params: Params, size: Sizes, tokens: int, here: Here) -> dict[str, Need]:
    """Return the needs of the stages that take much memory.

    Args:
        params: All of them.
        size: Sizes of the base model.
        tokens: Tokens of the longest prompt with its answer.
        here: Sizes of this machine. If the merged model does not fit on the GPU, it is scored on the CPU.
    """
    micro, checkpointing = params.train.per_device_train_batch_size, params.train.gradient_checkpointing
    answers = size.nf4 if params.answers.quantization == "bitsandbytes" else size.bf16
    stages = {
        "train": Need(training(params, size, tokens, micro, checkpointing), PROCESS, checkpoints(params, size)),
        "merge": Need(size.bf16 + CONTEXT + GIB, PROCESS + min(SHARD, size.bf16), size.bf16),
        "answers": Need(answers + ENGINE, PROCESS, 0),
    }
    if params.model.device == "cpu":
        stages["answers"] = Need(answers, PROCESS, 0)
        return {stage: Need(0, need.gpu + need.host, need.disk) for stage, need in stages.items()}
    if stages["merge"].gpu > here.gpu:
        stages["merge"] = Need(size.nf4 + CONTEXT + GIB, PROCESS + size.bf16, size.bf16)
    return stages


def training(params: Params, size: Sizes, tokens: int, pairs: int, checkpointing: bool) -> float:
    """Return the bytes of device memory that the training takes with `pairs` pairs at once."""
    weights = size.nf4 if params.model.quantization == "nf4" else size.bf16
    kept = size.checkpointed if checkpointing else size.kept
    activations = 2 * pairs * min(tokens, params.train.max_length) * kept
    return weights + size.adapter * (2 * FP32 + moments(params)) + activations + CONTEXT


def checkpoints(params: Params, size: Sizes) -> int:
    """Return the bytes of the two newest checkpoints, which are kept."""
    return 2 * size.adapter * (FP32 + moments(params))


def moments(params: Params) -> int:
    """Return the bytes of Adam's moments per trained parameter."""
    return STATE_8_BIT if "8bit" in params.train.optim else STATE_32_BIT


def suggestion(params: Params, size: Sizes, tokens: int, free: float) -> tuple[int, bool] | None:
    """Return the largest micro-batch that fits, and whether it needs gradient checkpointing; None if none fits."""
    total = params.train.global_batch_size
    for checkpointing in (False, True):
        for pairs in sorted((n for n in range(1, total + 1) if total % n == 0), reverse=True):
            if training(params, size, tokens, pairs, checkpointing) <= free:
                return pairs, checkpointing
    return None


def available(device: str, merged: Path = Path("data/merged")) -> Here:
    """Return the sizes of this machine."""
    gpu = gpu_size() if device == "cuda" else 0
    replaced = sum(path.stat().st_size for path in merged.glob("*.safetensors"))
    return Here(gpu, memory().total, shutil.disk_usage(".").free + replaced)


def check(params: Params, size: Sizes, tokens: int, here: Here, kinds: Sequence[str] = KINDS) -> None:
    """Refuse a run if one of its stages does not fit on this machine, even when nothing else is running.

    Args:
        params: All of them.
        size: Sizes of the base model.
        tokens: Tokens of the longest prompt with its answer.
        here: Sizes of this machine.
        kinds: Kinds of memory to check.

    Raises:
        InputError: A stage does not fit. The message gives its need, the size of this machine, and what would fit.
    """
    problems = [
        f"{stage} takes about {gib(needed)} GiB of {kind} and there are {gib(available)}; "
        f"{advice(stage, kind, params, size, tokens, here)}"
        for stage, need in needs(params, size, tokens, here).items()
        for kind, needed, available in zip(KINDS, need, here, strict=True)
        if kind in kinds and needed > available
    ]
    if problems:
        raise InputError("; ".join(problems))


def advice(stage: str, kind: str, params: Params, size: Sizes, tokens: int, here: Here) -> str:
    """Return the change that would make a stage fit."""
    if kind == "disk":
        return "make room, or take a smaller model"
    if stage == "train":
        free = here.host - PROCESS if params.model.device == "cpu" else here.gpu
        return _smaller_batch(params, suggestion(params, size, tokens, free))
    if stage == "answers" and params.model.device == "cuda":
        return "set answers.quantization to bitsandbytes, or take a smaller model"
    return "take a smaller model, or a larger machine"


def _smaller_batch(params: Params, fitting: tuple[int, bool] | None) -> str:
    if not fitting:
        smaller = "take a smaller model"
        return smaller if params.model.quantization == "nf4" else f"set model.quantization to nf4, or {smaller}"
    pairs, checkpointing = fitting
    return (
        f"set train.per_device_train_batch_size to {pairs}, gradient_accumulation_steps to "
        f"{params.train.global_batch_size // pairs} and gradient_checkpointing to {str(checkpointing).lower()}"
    )


def describing(base: FolderBase | HubBase | PackageBase, recorded: Path) -> Path:
    """Return a folder with the configuration of a model and, if there is one, of its tokenizer; or the GGUF file.

    Args:
        base: Where the model comes from. Of a model on the Hub only these small files are fetched. The file in a
            package is checked against its hash.
        recorded: `data/base`. If it records the same model, the Hub is not asked, and the GGUF file is not read.

    Raises:
        InputError: The model does not exist, or the package or its file is another.
        Unreachable: The Hub does not answer.
    """
    if isinstance(base, PackageBase):
        path = package.find(base)
        return recorded / MODEL if _converted(base, recorded) else path
    folder = from_project(base.path) if isinstance(base, FolderBase) else _in_cache(base, recorded) or _fetched(base)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    require_whole_model(names, str(folder), "set base.path to a folder that `save_pretrained` wrote")
    read_config(folder / CONFIG, base.origin)
    return folder


def configuration(folder: Path) -> PretrainedConfig:
    """Return the configuration in a folder or in a GGUF file.

    Raises:
        InputError: transformers does not know the model.
    """
    if folder.is_file():
        return package.read_config(folder)
    return outlines.configuration(folder)


def _converted(base: PackageBase, recorded: Path) -> bool:
    if not (recorded / RECORD).exists() or not (recorded / MODEL / CONFIG).is_file():
        return False
    converted = Base.read(recorded).package
    return converted is not None and converted.sha256 == base.sha256


def _in_cache(base: HubBase, recorded: Path) -> Path | None:
    if not (recorded / RECORD).exists():
        return None
    record = Base.read(recorded)
    if record.repo_id != base.repo_id or record.revision is None:
        return None
    names = [name for name in DESCRIPTION if name in record.files]
    paths = [path for name in names if (path := hub.cached(record.repo_id, record.revision, name))]
    return paths[0].parent if paths and len(paths) == len(names) else None


def _fetched(base: HubBase) -> Path:
    listing = hub.look_up(base.repo_id, base.revision)
    require_whole_model(listing.files, str(listing), "set base.repo_id to a transformers model")
    folder, _ = hub.fetch(listing, [name for name in DESCRIPTION if name in listing.files])
    return folder


def longest(questions: Sequence[Question], system_prompt: str) -> int:
    """Return the tokens of the longest prompt with its answer, if every character is a token."""
    rows = (len(row.prompt) + max(len(row.support), len(row.oppose)) for row in questions)
    return max(rows) + len(system_prompt) + TEMPLATE


def table(stages: dict[str, Need], here: Here) -> list[str]:
    """Return the needs and the sizes of this machine, in lines."""
    rows: list[tuple[str, Need | Here]] = [*stages.items(), ("there is", here)]
    return [f"{'GiB':10} {'GPU':>7} {'host':>7} {'disk':>7}"] + [
        f"{name:10} {gib(row.gpu):>7} {gib(row.host):>7} {gib(row.disk):>7}" for name, row in rows
    ]


def main() -> None:
    """Print what the run in `params.yaml` takes: `python -m stance footprint`."""
    ArgumentParser(
        description="Show the memory and the disk space that each stage of the run in params.yaml needs, and the "
        "largest micro-batch that fits on this machine."
    ).parse_args()
    params = Params.load()
    if isinstance(params.base, MiniatureBase):
        raise InputError("the miniature fits anywhere; set base.source to folder, hub or package to measure a model")
    with source_folder(params.dataset) as folder:
        tokens = longest(read_questions(folder), params.model.system_prompt)
    size = sizes(configuration(describing(params.base, Path("data/base"))), params.train)
    here = available(params.model.device)
    for line in table(needs(params, size, tokens, here), here):
        logger.info(line)
    fitting = suggestion(params, size, tokens, here.gpu or here.host - PROCESS)
    logger.info(
        "micro-batch that fits: %s", f"{fitting[0]}{' with gradient checkpointing' * fitting[1]}" if fitting else "none"
    )
