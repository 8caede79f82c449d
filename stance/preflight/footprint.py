"""The memory and the disk space of a run, compared with this machine before it starts.

`python -m stance footprint` prints the needs of the stages (`stance.preflight.stages`), the sizes of this machine, and
for each training the largest batch that fits. Sizes are in bytes, and in gibibytes where they are printed.
"""

import logging
import shutil
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from stance.config.models import FolderBase, HubBase, MiniatureBase, PackageBase
from stance.config.params import Params
from stance.data.chat import load_tokenizer, require_sound_template
from stance.data.questions import Question, read_questions
from stance.data.sources import source_folder
from stance.errors import InputError
from stance.machine.files import from_project
from stance.machine.memory import gib, gpu_size, memory
from stance.models import hub, package
from stance.models import outline as outlines
from stance.models.base import MODEL, RECORD, Base
from stance.models.weights import CONFIG, read_config, require_whole_model
from stance.preflight.sizes import Sizes, Texts, longest, shapes
from stance.preflight.stages import Here, Need, needs

logger = logging.getLogger(__name__)


KINDS = ("GPU memory", "host memory", "disk")
"""Names of the fields of `Need` and `Here`, in their order."""
TOKENIZER, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
VOCABULARY = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
DESCRIPTION = (
    CONFIG,
    TOKENIZER,
    TEMPLATE_FILE,
    *VOCABULARY,
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Files that are fetched from the Hub to measure a model before its weights, some megabytes."""

Changes = dict[str, Any]
"""New values of parameters, by block and key: `rl.use_vllm`."""


def available(device: str, merged: Path = Path("data/merged")) -> Here:
    """Return the sizes of this machine."""
    gpu = gpu_size() if device == "cuda" else 0
    replaced = sum(path.stat().st_size for path in merged.glob("*.safetensors"))
    return Here(gpu, memory().total, shutil.disk_usage(".").free + replaced)


def check(params: Params, found: Mapping[str, Sizes], texts: Texts, here: Here, kinds: Sequence[str] = KINDS) -> None:
    """Refuse a run if one of its stages does not fit on this machine, even when nothing else is running.

    Args:
        params: All of them.
        found: Sizes of the base model, as `shapes` returns them.
        texts: Tokens of the longest texts.
        here: Sizes of this machine.
        kinds: Kinds of memory to check.

    Raises:
        InputError: A stage does not fit. The message gives its need, the size of this machine, and what would fit.
    """
    problems = [
        f"{stage} takes about {gib(needed)} GiB of {kind} and there are {gib(available)}; "
        f"{advice(stage, kind, params, found, texts, here)}"
        for stage, need in needs(params, found, texts, here).items()
        for kind, needed, available in zip(KINDS, need, here, strict=True)
        if kind in kinds and needed > available
    ]
    if problems:
        raise InputError("; ".join(problems))


def advice(stage: str, kind: str, params: Params, found: Mapping[str, Sizes], texts: Texts, here: Here) -> str:
    """Return the change that would make a stage fit."""
    if kind == "disk":
        lighter = {"rl": "set rl.use_vllm to false"}
        if params.fine_tunes_whole:
            lighter["sft"] = "set sft.method to lora"
        return f"make room, or {lighter.get(stage, 'take a smaller model')}"
    if fitting := suggestion(stage, params, found, texts, here):
        return f"set {in_words(fitting)}"
    if stage == "sft" and params.fine_tunes_whole:
        return "set sft.method to lora, or take a smaller model"
    if stage in TRAININGS:
        whole = params.model.quantization == "none" and params.model.device == "cuda"  # on a CPU weights always are
        return f"{'set model.quantization to nf4, or ' if whole else ''}take a smaller model"
    if stage in ("sample", "answers") and params.model.device == "cuda":
        return "set answers.quantization to bitsandbytes, or take a smaller model"
    return "take a smaller model, or a larger machine"


def suggestion(stage: str, params: Params, found: Mapping[str, Sizes], texts: Texts, here: Here) -> Changes | None:
    """Return the first change that makes a training fit, with the other trainings that have its batches.

    None if no change does, or if the stage trains nothing.
    """
    if stage not in TRAININGS:
        return None
    for changes in TRAININGS[stage](params):
        stages = needs(changed(params, changes), found, texts, here)
        alike = [need for name, need in stages.items() if TRAININGS.get(name) is TRAININGS[stage]]
        if all(need.gpu <= here.gpu and need.host <= here.host for need in alike):
            return changes
    return None


def changed(params: Params, changes: Changes) -> Params:
    """Return the parameters with other values. They are not checked."""
    blocks: dict[str, Changes] = {}
    for name, value in changes.items():
        block, _, key = name.partition(".")
        blocks.setdefault(block, {})[key] = value
    return params.model_copy(
        update={block: getattr(params, block).model_copy(update=values) for block, values in blocks.items()}
    )


def divisors(total: int) -> list[int]:
    """Return the divisors of a number, the largest first."""
    return [number for number in range(total, 0, -1) if total % number == 0]


def smaller_batches(params: Params) -> Iterator[Changes]:
    """Give the batches of `train`, which are those of `sft`, without and with checkpointing. The result is the same."""
    total = params.train.global_batch_size
    for checkpointing in (False, True):
        for micro in divisors(total):
            yield {
                "train.per_device_train_batch_size": micro,
                "train.gradient_accumulation_steps": total // micro,
                "train.gradient_checkpointing": checkpointing,
            }


def smaller_reward_batches(params: Params) -> Iterator[Changes]:
    """Give checkpointing first: the batch of `reward` is that of an optimiser step, so that it changes the result."""
    if not params.reward:
        return
    whole = params.reward.per_device_train_batch_size
    for micro, checkpointing in [(whole, False), *((micro, True) for micro in range(whole, 0, -1))]:
        yield {"reward.per_device_train_batch_size": micro, "reward.gradient_checkpointing": checkpointing}


def smaller_rl_batches(params: Params) -> Iterator[Changes]:
    """Give the batches of `rl`, without and with checkpointing; and then those without vLLM."""
    if not params.rl:
        return
    for use_vllm in (True, False) if params.rl.use_vllm else (False,):
        for checkpointing in (False, True):
            for micro in divisors(params.rl.num_generations * params.rl.prompts_per_step):
                changes = {"rl.per_device_train_batch_size": micro, "rl.gradient_checkpointing": checkpointing}
                yield changes | ({"rl.use_vllm": False} if use_vllm != params.rl.use_vllm else {})


TRAININGS = {
    "sft": smaller_batches,
    "train": smaller_batches,
    "reward": smaller_reward_batches,
    "rl": smaller_rl_batches,
}
"""The changes that may make a training fit, by stage, the best first."""


def in_words(changes: Changes) -> str:
    """Return changes of one block in words: `rl.r to 8 and use_vllm to false`."""
    block = next(iter(changes)).partition(".")[0]
    steps = [f"{name.removeprefix(f'{block}.')} to {str(value).lower()}" for name, value in changes.items()]
    *first, last = steps
    return f"{block}.{', '.join(first)} and {last}"


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


def lengths(questions: Sequence[Question], system_prompt: str, folder: Path) -> tuple[Texts, bool]:
    """Return the tokens of the longest texts, and whether the model's tokenizer has read them.

    It has not where its files are missing, as before a model in a package is converted, or where it fails.

    Args:
        questions: Questions of the data set.
        system_prompt: The first message of every text.
        folder: What `describing` returns.
    """
    if any((folder / name).is_file() for name in VOCABULARY):
        try:
            tokenizer = load_tokenizer(folder)
            require_sound_template(tokenizer)
            return longest(questions, system_prompt, tokenizer), True
        except Exception as error:  # other people's tokenizers and templates raise anything; the stage `base` says why
            logger.debug("%s: %s", folder, error)
    return longest(questions, system_prompt, None), False


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
        "largest batch of each training that fits on this machine."
    ).parse_args()
    params = Params.load()
    if isinstance(params.base, MiniatureBase):
        raise InputError("the miniature fits anywhere; set base.source to folder, hub or package to measure a model")
    with source_folder(params.dataset) as folder:
        questions = read_questions(folder)
    described = describing(params.base, Path("data/base"))
    found = shapes(configuration(described), params)
    texts, read = lengths(questions, params.model.system_prompt, described)
    here = available(params.model.device)
    stages = needs(params, found, texts, here)
    how = "by the model's tokenizer" if read else "if every character is one"
    logger.info("the longest text has %d tokens, %s", texts.answered, how)
    for line in table(stages, here):
        logger.info(line)
    for stage in [stage for stage in stages if stage in TRAININGS]:
        fitting = suggestion(stage, params, found, texts, here)
        largest = f"set {in_words(fitting)}" if fitting else "none"
        logger.info("the largest batch of %s that fits: %s", stage, largest)
