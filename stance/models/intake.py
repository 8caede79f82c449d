"""Taking a model in as the base: from a folder or from the Hub, after the checks that its files allow.

In: the block `base`. Out: the record `Base` and the fingerprint. A model that cannot be trained, merged and served is
refused before a training, one on the Hub by its small files before its weights are fetched. Sizes and layers come from
the model's outline, which transformers builds without weights.
"""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from stance.config.models import FolderBase, HubBase
from stance.data.chat import Fingerprint, fingerprint, load_tokenizer, require_sound_template
from stance.errors import InputError
from stance.machine.files import digest, from_project
from stance.machine.memory import gib, memory
from stance.models import hub
from stance.models.base import Base, Device, in_bf16, small_files
from stance.models.weights import (
    CONFIG,
    Shapes,
    listed,
    read_config,
    require_sound_weights,
    require_whole_model,
    weight_files,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


def from_folder(options: FolderBase, device: Device) -> tuple[Base, Fingerprint]:
    """Return the record and the fingerprint of a model in a local folder."""
    folder = from_project(options.path)
    names, shapes = checked_files(folder)
    weights = weight_files(folder, names, str(folder))
    stored = sum((folder / name).stat().st_size for name in weights)
    require_memory(in_bf16(stored, read_config(folder / CONFIG)), device)
    files = sorted([*small_files(names), *weights])
    with ThreadPoolExecutor() as threads:  # hashing runs while the tokenizer is imported
        digests = threads.map(digest, [folder / name for name in files])
        tokenizer = checked_tokenizer(folder, str(folder))
    require_fitting_weights(folder, shapes, tokenizer, str(folder))
    record = Base(source="folder", path=options.path, files=dict(zip(files, digests, strict=True)))
    return record, fingerprint(tokenizer)


def checked_files(folder: Path) -> tuple[list[str], Shapes]:
    """Return the names of the files in a model's folder and the shapes of its weights, after checking them.

    Raises:
        InputError: The folder holds no whole model, or its weights are quantised or damaged; names file and way out.
    """
    names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    require_whole_model(names, str(folder), "set base.path to a folder that `save_pretrained` wrote")
    read_config(folder / CONFIG)
    return names, require_sound_weights(folder, names, str(folder))


def from_hub(options: HubBase, device: Device) -> tuple[Base, Fingerprint]:
    """Return the record and the fingerprint of a model on the Hub, downloaded and verified."""
    listing = hub.look_up(options.repo_id, options.revision)
    logger.info("%s is %s", options.revision, listing)
    require_whole_model(listing.files, str(listing), "set base.repo_id to a transformers model")
    folder, small = hub.fetch(listing, small_files(listing.files))
    weights = weight_files(folder, listing.files, str(listing))
    stored = sum(listing.files[name].size for name in weights)
    require_memory(in_bf16(stored, read_config(folder / CONFIG, str(listing))), device)
    tokenizer = checked_tokenizer(folder, str(listing))
    _, large = hub.fetch(listing, weights)
    shapes = require_sound_weights(folder, [*small, *large], str(listing))
    require_fitting_weights(folder, shapes, tokenizer, str(listing))
    files = dict(sorted((small | large).items()))
    return Base(source="hub", repo_id=options.repo_id, revision=listing.commit, files=files), fingerprint(tokenizer)


def read_fingerprint(folder: Path, origin: str) -> Fingerprint:
    """Return the fingerprint of a model's tokenizer; `origin` names the model in an error.

    Raises:
        InputError: The model is no chat model, or a training cannot use its template.
    """
    return fingerprint(checked_tokenizer(folder, origin))


def checked_tokenizer(folder: Path, origin: str) -> "PreTrainedTokenizerFast":
    """Return a model's tokenizer, after checking its chat template; `origin` names the model in an error.

    Raises:
        InputError: The model is no chat model, or its template refuses, drops or moves the system prompt.
    """
    try:
        tokenizer = load_tokenizer(folder)
    except InputError as error:
        raise InputError(f"{origin} is not a chat model: {error}") from None
    try:
        require_sound_template(tokenizer)
    except InputError as error:
        raise InputError(f"{origin} cannot be trained: {error}") from None
    except TemplateError as error:
        raise InputError(
            f"the chat template of {origin} refuses a conversation with a system prompt ({error}); choose a "
            "model that accepts one"
        ) from None
    return tokenizer


def require_memory(needed: int, device: Device) -> None:
    """Refuse a model whose bf16 weights alone exceed the memory of this machine, if it is to run on the CPU.

    Args:
        needed: Bytes of the weights in bf16.
        device: Where the model will run.

    Raises:
        InputError: The machine has less memory.
    """
    total = memory().total
    if device == "cpu" and needed > total:
        raise InputError(
            f"the weights need {gib(needed)} GiB and this machine has {gib(total)} GiB of "
            "memory; choose a smaller model, or set model.device to cuda on a machine with a GPU"
        )


def require_fitting_weights(folder: Path, shapes: Shapes, tokenizer: "PreTrainedTokenizerFast", origin: str) -> None:
    """Compare a model's weights and its tokenizer with the outline that its configuration gives.

    Args:
        folder: The folder with the configuration.
        shapes: The shapes of all weights.
        tokenizer: The tokenizer.
        origin: Name of the model in an error.

    Raises:
        InputError: A weight is missing or has another shape, or the tokenizer has more tokens than the model.
    """
    from stance.models.outline import configuration, embedding_shape, linear_layers, outline  # brings torch

    model = outline(configuration(folder))
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    layers = {f"{name}.weight" for name in linear_layers(model)}
    _require_names(expected, layers, shapes, origin)
    different = sorted(name for name in expected.keys() & shapes.keys() if expected[name] != shapes[name])
    if different:
        name = different[0]
        raise InputError(
            f"{name} of {origin} has the shape {shapes[name]} and {CONFIG} describes {expected[name]}; take "
            "configuration and weights from one model"
        )
    rows, _ = embedding_shape(model)
    tokens = max(tokenizer.get_vocab().values()) + 1
    if tokens > rows:
        raise InputError(
            f"the tokenizer of {origin} has {tokens} tokens and the model's embeddings have {rows} rows; remove the "
            "added tokens, or resize the model (`resize_token_embeddings`) and save it"
        )


def _require_names(expected: Shapes, layers: Iterable[str], shapes: Shapes, origin: str) -> None:
    """Refuse lost weights. transformers may rename weights on loading, but the merge needs the names of the layers."""
    lost, unknown = sorted(expected.keys() - shapes.keys()), shapes.keys() - expected.keys()
    if renamed := sorted(set(layers) - shapes.keys()) if unknown else []:
        raise InputError(
            f"the weights of {origin} have other names than the model's layers: {listed(renamed)} is missing, so that "
            "an adapter cannot be merged; load the model with transformers and write it with `save_pretrained`"
        )
    if lost and not unknown:
        raise InputError(f"{origin} lacks the weights {listed(lost)}, which {CONFIG} describes; fetch the model anew")
