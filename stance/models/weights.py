"""Checks of a model's files before a training: can these weights be trained, merged and served?

In: the folder of a model. Out: nothing, or an `InputError` that names the file, the key and what to do. Only the
headers of the weights are read.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stance.errors import InputError

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
LENGTH = 8
"""Bytes at the start of a safetensors file that hold the length of its header."""
SHOWN = 3
"""Weights that an error names."""
Shapes = dict[str, tuple[int, ...]]
"""The shape of each weight by its name."""


def require_whole_model(names: Iterable[str], origin: str, advice: str) -> None:
    """Refuse a list of files that is no model: an adapter, or files without a configuration.

    Args:
        names: The names of all files.
        origin: Name of the model in an error.
        advice: The end of the error if there is no configuration.

    Raises:
        InputError: The files hold an adapter, or no `config.json`.
    """
    present = set(names)
    if ADAPTER in present:
        raise InputError(
            f"{origin} holds {ADAPTER}, so it is an adapter and no whole model; merge the adapter into its base first "
            "(PEFT's `merge_and_unload`, then `save_pretrained`), or name the base"
        )
    if CONFIG not in present:
        raise InputError(f"{origin} has no {CONFIG}; {advice}")


def read_config(path: Path, origin: str = "") -> dict[str, Any]:
    """Return the values in a `config.json`.

    Args:
        path: The file.
        origin: Name of the model in an error; the path if empty.

    Raises:
        InputError: The file is not JSON, or the weights are quantised already.
    """
    config = _read_object(path)
    quantization = config.get("quantization_config") or config.get("compression_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else quantization
        raise InputError(
            f"the weights of {origin or path.parent} are quantised already (quantization_config in {CONFIG}, method "
            f"{method}), so that an adapter cannot be merged into them; choose the unquantised model that they were "
            "made from, and set model.quantization to nf4 to save memory in training"
        )
    return config


def weight_files(folder: Path, names: Iterable[str], origin: str) -> list[str]:
    """Return the names of the safetensors files of a model.

    Args:
        folder: Folder with the index, if the weights are in several files.
        names: Names of all files of the model.
        origin: Name of the model in an error.

    Raises:
        InputError: There are no safetensors, files that the index names are missing, or there are two sets of weights.
    """
    present = set(names)
    if INDEX not in present and SINGLE not in present:
        raise InputError(
            f"{origin} has no {SINGLE} and no {INDEX}; expected a complete model in safetensors: choose another model, "
            "or convert it with `save_pretrained`"
        )
    if INDEX not in present:
        return [SINGLE]
    shards = set(read_index(folder / INDEX).values())
    if lost := sorted(shards - present):
        raise InputError(f"{origin} lacks {', '.join(lost)}, which its {INDEX} names; restore it")
    if SINGLE in present - shards:
        raise InputError(
            f"{origin} holds two sets of weights: {SINGLE}, and {listed(sorted(shards))} that {INDEX} names; "
            "programs differ in which one they load: remove one of them"
        )
    return sorted(shards)


def read_index(path: Path) -> dict[str, str]:
    """Return the file of each weight by the weight's name, from an index of weights.

    Raises:
        InputError: The file is not an index.
    """
    weights = _read_object(path).get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise InputError(f"{path} is no index of weights; expected `weight_map`, the file of each weight: restore it")
    return weights


def read_shapes(path: Path) -> Shapes:
    """Return the shapes of the weights in a safetensors file, from its header.

    Raises:
        InputError: The file is no safetensors file, or a part of one.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(LENGTH)
        length = int.from_bytes(start, "little")
        header = file.read(length) if len(start) == LENGTH and length <= size else b""
    if start.startswith(b"version "):
        raise InputError(
            f"{path} is a pointer of git-lfs ({size} bytes) and holds no weights; run `git lfs pull` in its folder, or "
            "fetch the model anew"
        )
    try:
        weights = {name: value for name, value in json.loads(header).items() if name != "__metadata__"}
        shapes = {name: tuple(value["shape"]) for name, value in weights.items()}
        end = max((value["data_offsets"][1] for value in weights.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        raise InputError(f"{path} is no safetensors file ({size} bytes); fetch it anew") from None
    if LENGTH + length + end != size:
        raise InputError(
            f"{path} has {size} bytes and its header describes {LENGTH + length + end}; it was not copied to its end: "
            "fetch it anew"
        )
    return shapes


def require_sound_weights(folder: Path, names: Iterable[str], origin: str) -> Shapes:
    """Return the shapes of all weights of a model, after checking that each file holds what is promised of it.

    Args:
        folder: The folder with the weights.
        names: Names of all files of the model.
        origin: Name of the model in an error.

    Raises:
        InputError: A file is no safetensors file, the index and the files disagree, or there are two sets of weights.
    """
    present = set(names)
    files = weight_files(folder, present, origin)
    shapes = {name: read_shapes(folder / name) for name in files}
    index = read_index(folder / INDEX) if INDEX in present else {}
    lost = sorted(weight for weight, name in index.items() if weight not in shapes[name])
    if lost:
        raise InputError(
            f"{INDEX} of {origin} says that {index[lost[0]]} holds {listed(lost)}, and it does not; fetch index and "
            "weights anew"
        )
    others = sorted(name for name in present - set(files) if name.endswith(".safetensors"))
    if others and not index:
        raise InputError(
            f"{origin} holds {others[0]} beside {SINGLE}; vLLM would load both files as one model: move it away"
        )
    return {weight: shape for part in shapes.values() for weight, shape in part.items()}


def listed(names: list[str]) -> str:
    """Return names for an error: the first ones, and the number of the others."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); expected what `save_pretrained` writes") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}; expected what `save_pretrained` writes")
    return values
