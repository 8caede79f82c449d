"""The memory that an engine takes, and whether it fits beside the memory in use. All sizes are in bytes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stance.errors import InputError
from stance.machine.files import read_yaml
from stance.machine.memory import Room, gib
from stance.serving.candidate import ServableModel

CONFIGURATION = Path("deploy/vllm.yaml")


def cache_bytes(candidate: ServableModel, settings: Mapping[str, Any], total: int) -> int:
    """Return the size of an engine's key-value cache.

    The cache holds as many requests of full length as the engine decodes at once, within the memory limit.

    Args:
        candidate: The model.
        settings: The values of `deploy/vllm.yaml`.
        total: The memory of the device.

    Raises:
        InputError: The weights and one request of full length exceed the memory limit.
    """
    share = float(settings["gpu-memory-utilization"])
    window = int(settings.get("max-model-len", candidate.window))
    one = candidate.cache_per_token * window
    allowed = int(total * share) - candidate.weights - candidate.overhead
    if one > allowed:
        raise InputError(
            f"{candidate.name} takes {gib(candidate.weights + candidate.overhead)} GiB and {gib(one)} more for one "
            f"request of {window} tokens, and may take {gib(int(total * share))} of {gib(total)} GiB; set "
            f"gpu-memory-utilization higher or max-model-len lower in {CONFIGURATION}, or take a larger machine"
        )
    return min(one * int(settings["max-num-seqs"]), allowed)


def needed(candidate: ServableModel, settings: Mapping[str, Any], total: int) -> int:
    """Return the memory that an engine takes in all."""
    return candidate.weights + candidate.overhead + cache_bytes(candidate, settings, total)


def shortage(candidate: ServableModel, settings: Mapping[str, Any], room: Room) -> str | None:
    """Return a sentence that says how much memory an engine lacks; None if it fits."""
    total = needed(candidate, settings, room.total)
    if total <= room.free:
        return None
    return f"{candidate.name} takes {gib(total)} GiB and {gib(room.free)} of {gib(room.total)} GiB are free"


def read_settings() -> dict[str, Any]:
    """Return the values of `deploy/vllm.yaml`, with vLLM's own defaults for those that this module needs."""
    return {"gpu-memory-utilization": 0.92, "max-num-seqs": 256, **read_yaml(CONFIGURATION)}
