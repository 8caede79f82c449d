"""The base model: a miniature made here, a model in a folder, or one from the Hugging Face Hub.

Writes `base.json`, which says what the model is down to the hash of every file, and `fingerprint.json`, which
says how it reads conversations. The weights of a Hub or folder model stay where they are, and
`tasks.weights.locate` finds them. Whatever can rule a model out is checked before they are fetched.
"""

import json
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from tasks import hub
from tasks.errors import InputError, run
from tasks.jsonfile import write_json
from tasks.params import FolderBase, HubBase, MiniatureBase, Params
from tasks.questions import read_questions
from tasks.weights import CONFIG, MODEL, Base, in_bf16, small_files, weight_files

logger = logging.getLogger(__name__)

Device = Literal["cpu", "cuda"]


def base(
    options: HubBase | FolderBase | MiniatureBase,
    system_prompt: str,
    seed: int,
    dataset: Path,
    out: Path,
    device: Device = "cpu",
) -> None:
    """Write what the base model is, and how it reads conversations, to `out`.

    Args:
        options: Where the model comes from.
        system_prompt: What the miniature is trained with.
        seed: For the miniature.
        dataset: `data/dataset`; the miniature learns from its training questions.
        out: `data/base`.
        device: Where the model will run; on a CPU it has to fit into memory.

    Raises:
        InputError: The model cannot be had, is not whole, is no chat model, or does not fit.
    """
    out.mkdir(parents=True, exist_ok=True)
    match options:
        case MiniatureBase():
            record, reads = _miniature(options, system_prompt, seed, dataset, out / MODEL)
        case FolderBase():
            record, reads = _folder(options, device)
        case HubBase():
            record, reads = _hub(options, device)
    record.write(out)
    write_json(out / "fingerprint.json", reads)


def _miniature(
    options: MiniatureBase, system_prompt: str, seed: int, dataset: Path, folder: Path
) -> tuple[Base, dict[str, Any]]:
    from tasks.miniature import build

    build(read_questions(dataset), options, system_prompt, seed, folder)
    files = {path.name: hub.digest(path) for path in sorted(folder.iterdir())}
    return Base(source="miniature", files=files), _reads(folder, str(folder))


def _folder(options: FolderBase, device: Device) -> tuple[Base, dict[str, Any]]:
    folder = options.path
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} has no {CONFIG}; set base.path to a folder that `save_pretrained` wrote")
    names = [path.name for path in folder.iterdir() if path.is_file()]
    weights = weight_files(folder, names, str(folder))
    _require_memory(folder, sum((folder / name).stat().st_size for name in weights), device)
    wanted = sorted([*small_files(names), *weights])
    with ThreadPoolExecutor() as threads:  # hashing leaves the interpreter to the imports of the tokenizer
        digests = threads.map(hub.digest, [folder / name for name in wanted])
        reads = _reads(folder, str(folder))
    return Base(source="folder", path=folder, files=dict(zip(wanted, digests, strict=True))), reads


def _hub(options: HubBase, device: Device) -> tuple[Base, dict[str, Any]]:
    listing = hub.look_up(options.repo_id, options.revision)
    logger.info("%s is %s", options.revision, listing)
    if CONFIG not in listing.files:
        raise InputError(f"{listing} has no {CONFIG}; set base.repo_id to a transformers model")
    folder, small = hub.fetch(listing, small_files(listing.files))
    weights = weight_files(folder, listing.files, str(listing))
    _require_memory(folder, sum(listing.files[name].size for name in weights), device)
    reads = _reads(folder, str(listing))
    _, large = hub.fetch(listing, weights)
    files = dict(sorted((small | large).items()))
    return Base(source="hub", repo_id=options.repo_id, revision=listing.commit, files=files), reads


def _reads(folder: Path, origin: str) -> dict[str, Any]:
    # Seconds of imports, for which the sentence about a misspelt repo_id need not wait.
    from tasks.chat import fingerprint, load_tokenizer

    try:
        return fingerprint(load_tokenizer(folder))
    except InputError as error:
        raise InputError(f"{origin} is not a chat model: {error}") from None
    except TemplateError as error:
        raise InputError(
            f"the chat template of {origin} refuses a conversation with a system prompt ({error}); choose a "
            "model that takes one"
        ) from None


def _require_memory(folder: Path, weight_bytes: int, device: Device) -> None:
    """Refuse a model whose bf16 weights alone exceed the memory of the machine it is to run on."""
    needed = in_bf16(weight_bytes, _read_config(folder / CONFIG))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device == "cpu" and needed > total:
        raise InputError(
            f"the weights need {needed / hub.GIB:.1f} GiB and this machine has {total / hub.GIB:.1f} GiB of "
            "memory; choose a smaller model, or set model.device to cuda on a machine with a GPU"
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); expected what `save_pretrained` writes") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} holds a {type(config).__name__}; expected what `save_pretrained` writes")
    return config


def main() -> None:
    """Run as `python -m tasks.base data/dataset data/base`."""
    params = Params.load()
    dataset, out = map(Path, sys.argv[1:])
    base(params.base, params.model.system_prompt, params.seed, dataset, out, params.model.device)


if __name__ == "__main__":
    run(main)
