"""What each stage takes of GPU, host memory and disk, worked out from a model's configuration before anything starts.

`python -m stance footprint` prints it beside what this machine has, and the largest micro-batch that fits. Weights,
adapter and optimiser are counted; what a forward pass keeps per token is a rule that was fitted to measurements
(docs/performance.md). Sizes are bytes, and gibibytes where a person reads them.
"""

import logging
import shutil
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transformers import AutoConfig, PretrainedConfig

from stance.config.models import FolderBase, HubBase
from stance.config.params import Params
from stance.config.training import Train
from stance.data.questions import Question, read_questions
from stance.data.sources import source_folder
from stance.errors import InputError
from stance.machine.memory import GIB, gib, gpu_size, memory
from stance.models import hub
from stance.models.base import CONFIG, RECORD, Base
from stance.models.loading import ENGINE, linear_layers, outline

logger = logging.getLogger(__name__)


BF16, FP32 = 2, 4
NF4 = 0.5 + FP32 / 64
"""Bytes of a weight: four bits, and a scale for every 64 weights."""
STATE_8_BIT, STATE_32_BIT = 2, 8
"""Bytes of Adam's two moments."""
PROCESS = 3 * GIB
"""Host memory of Python, torch and its libraries with CUDA."""
CONTEXT = 0.6 * GIB
"""GPU memory of the CUDA context and its libraries' workspaces."""
SHARD = 5 * 10**9
"""The largest file of weights that the Hub's models are divided into."""
TEMPLATE = 30
"""Tokens that a chat template adds."""
KINDS = ("GPU memory", "host memory", "disk")
"""What the fields of `Need` and `Here` count."""
TOKENIZER, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
DESCRIPTION = (CONFIG, TOKENIZER, TEMPLATE_FILE)
"""What is fetched of a Hub model to know it before its weights."""


class Sizes(NamedTuple):
    """Parameters of a model, and what a token takes of it."""

    linear: int
    """In layers that are quantised."""
    other: int
    """In embeddings, head and norms."""
    adapter: int
    kept: int
    """Bytes that the forward pass keeps for the backward pass, per token."""
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
    """Bytes; on a CPU the model is in host memory and `gpu` is 0."""

    gpu: float
    host: float
    disk: float


class Here(NamedTuple):
    """Bytes that this machine has."""

    gpu: float
    """Of the GPU, whoever uses it now; 0 where there is none."""
    host: float
    disk: float
    """That are free or will be once the previous merged model is replaced."""


def sizes(config: PretrainedConfig, options: Train) -> Sizes:
    """Return the sizes of a model that exists only as a configuration."""
    try:
        model = outline(config)
    except ValueError:
        raise InputError(f"{config.model_type} is no causal language model; choose one that generates text") from None
    inside = config.get_text_config()
    layers = linear_layers(model)
    linear = sum(module.weight.numel() for module in layers.values())
    targets = options.target_modules
    chosen = [module for name, module in layers.items() if targets == "all-linear" or name.split(".")[-1] in targets]
    adapter = sum(options.r * (module.in_features + module.out_features) for module in chosen)
    layer = BF16 * (3 * inside.intermediate_size + 7 * inside.hidden_size)
    depth = inside.num_hidden_layers
    return Sizes(
        linear, model.num_parameters() - linear, adapter, layer * depth, layer + BF16 * inside.hidden_size * depth
    )


def needs(params: Params, size: Sizes, tokens: int, here: Here) -> dict[str, Need]:
    """Return what the stages take that take much.

    Args:
        params: All of them.
        size: Of the base model.
        tokens: Of the longest prompt with its answer.
        here: What there is; a GPU that has no room for the merged model leaves its scoring to the CPU.
    """
    micro, checkpointing = params.train.per_device_train_batch_size, params.train.gradient_checkpointing
    answers = size.nf4 if params.answers.quantization == "bitsandbytes" else size.bf16
    found = {
        "train": Need(training(params, size, tokens, micro, checkpointing), PROCESS, checkpoints(params, size)),
        "merge": Need(size.bf16 + CONTEXT + GIB, PROCESS + min(SHARD, size.bf16), size.bf16),
        "answers": Need(answers + ENGINE, PROCESS, 0),
    }
    if params.model.device == "cpu":
        found["answers"] = Need(answers, PROCESS, 0)
        return {stage: Need(0, need.gpu + need.host, need.disk) for stage, need in found.items()}
    if found["merge"].gpu > here.gpu:
        found["merge"] = Need(size.nf4 + CONTEXT + GIB, PROCESS + size.bf16, size.bf16)
    return found


def training(params: Params, size: Sizes, tokens: int, pairs: int, checkpointing: bool) -> float:
    """Return what the training takes of the device's memory with `pairs` pairs at once."""
    weights = size.nf4 if params.model.quantization == "nf4" else size.bf16
    kept = size.checkpointed if checkpointing else size.kept
    activations = 2 * pairs * min(tokens, params.train.max_length) * kept
    return weights + size.adapter * (2 * FP32 + moments(params)) + activations + CONTEXT


def checkpoints(params: Params, size: Sizes) -> int:
    """Return what the two newest checkpoints take of the disk."""
    return 2 * size.adapter * (FP32 + moments(params))


def moments(params: Params) -> int:
    """Return the bytes of Adam's moments per trained parameter."""
    return STATE_8_BIT if "8bit" in params.train.optim else STATE_32_BIT


def suggestion(params: Params, size: Sizes, tokens: int, free: float) -> tuple[int, bool] | None:
    """Return the largest micro-batch that fits, and whether it takes gradient checkpointing; None if nothing fits."""
    total = params.train.global_batch_size
    for checkpointing in (False, True):
        for pairs in sorted((n for n in range(1, total + 1) if total % n == 0), reverse=True):
            if training(params, size, tokens, pairs, checkpointing) <= free:
                return pairs, checkpointing
    return None


def available(device: str, merged: Path = Path("data/merged")) -> Here:
    """Return what this machine has."""
    gpu = gpu_size() if device == "cuda" else 0
    replaced = sum(path.stat().st_size for path in merged.glob("*.safetensors"))
    return Here(gpu, memory(gpu=False).total, shutil.disk_usage(".").free + replaced)


def check(params: Params, size: Sizes, tokens: int, here: Here, kinds: Sequence[str] = KINDS) -> None:
    """Refuse a run of which a stage cannot fit, whatever else is running now.

    Args:
        params: All of them.
        size: Of the base model.
        tokens: Of the longest prompt with its answer.
        here: What there is.
        kinds: Which of it to look at.

    Raises:
        InputError: Says for every stage that does not fit what is needed, what there is, and what would fit.
    """
    problems = [
        f"{stage} takes about {gib(wanted)} GiB of {kind} and there are {gib(found)}; "
        f"{advice(stage, kind, params, size, tokens, here)}"
        for stage, need in needs(params, size, tokens, here).items()
        for kind, wanted, found in zip(KINDS, need, here, strict=True)
        if kind in kinds and wanted > found
    ]
    if problems:
        raise InputError("; ".join(problems))


def advice(stage: str, kind: str, params: Params, size: Sizes, tokens: int, here: Here) -> str:
    """Return what would make a stage fit."""
    if kind == "disk":
        return "make room, or take a smaller model"
    if stage == "train":
        free = here.host - PROCESS if params.model.device == "cpu" else here.gpu
        return _smaller_batch(params, suggestion(params, size, tokens, free))
    if stage == "answers" and params.model.device == "cuda":
        return "set answers.quantization to bitsandbytes, or take a smaller model"
    return "take a smaller model, or a larger machine"


def _smaller_batch(params: Params, found: tuple[int, bool] | None) -> str:
    if not found:
        smaller = "take a smaller model"
        return smaller if params.model.quantization == "nf4" else f"set model.quantization to nf4, or {smaller}"
    pairs, checkpointing = found
    return (
        f"set train.per_device_train_batch_size to {pairs}, gradient_accumulation_steps to "
        f"{params.train.global_batch_size // pairs} and gradient_checkpointing to {str(checkpointing).lower()}"
    )


def describing(base: FolderBase | HubBase, recorded: Path) -> Path:
    """Return a folder with a model's configuration, and the tokenizer's where there is one.

    Args:
        base: Where the model comes from; no more than this is fetched of a Hub model.
        recorded: `data/base`, which spares the network if it holds a revision of the same model.

    Raises:
        InputError: The model is not there.
        Unreachable: The Hub does not answer.
    """
    folder = base.path if isinstance(base, FolderBase) else _in_cache(base, recorded) or _fetched(base)
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} has no {CONFIG}; set base.path to a folder that `save_pretrained` wrote")
    return folder


def configuration(folder: Path) -> PretrainedConfig:
    """Return the configuration that a folder holds.

    Raises:
        InputError: It is of no model that transformers knows.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(str(folder))
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder / CONFIG} describes no model that is known here ({reason}); choose another"
        ) from None
    return config


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
    if CONFIG not in listing.files:
        raise InputError(f"{listing} has no {CONFIG}; set base.repo_id to a transformers model")
    folder, _ = hub.fetch(listing, [name for name in DESCRIPTION if name in listing.files])
    return folder


def longest(questions: Sequence[Question], system_prompt: str) -> int:
    """Return the length of the longest prompt with its answer, at a token for each character."""
    rows = (len(row.prompt) + max(len(row.support), len(row.oppose)) for row in questions)
    return max(rows) + len(system_prompt) + TEMPLATE


def table(stages: dict[str, Need], here: Here) -> list[str]:
    """Return the needs and what there is, in lines."""
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
    if not isinstance(params.base, FolderBase | HubBase):
        raise InputError("the miniature fits anywhere; this is for a model from a folder or the Hub")
    with source_folder(params.dataset) as folder:
        tokens = longest(read_questions(folder), params.model.system_prompt)
    size = sizes(configuration(describing(params.base, Path("data/base"))), params.train)
    here = available(params.model.device)
    for line in table(needs(params, size, tokens, here), here):
        logger.info(line)
    found = suggestion(params, size, tokens, here.gpu or here.host - PROCESS)
    logger.info(
        "micro-batch that fits: %s", f"{found[0]}{' with gradient checkpointing' * found[1]}" if found else "none"
    )
