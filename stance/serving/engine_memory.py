"""How much memory an engine takes, and whether it fits beside what is there already."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stance.errors import InputError
from stance.machine.files import read_yaml
from stance.machine.memory import Room, gib
from stance.serving.candidate import Candidate

CONFIGURATION = Path("deploy/vllm.yaml")


def cache_bytes(candidate: Candidate, settings: Mapping[str, Any], total: int) -> int:
    """Return the size of an engine's cache: for as many full requests as it decodes at once, or what is allowed.

    Raises:
        InputError: The weights and one request of full length take more than is allowed.
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


def needed(candidate: Candidate, settings: Mapping[str, Any], total: int) -> int:
    """Return the bytes that an engine takes, all in all."""
    return candidate.weights + candidate.overhead + cache_bytes(candidate, settings, total)


def shortage(candidate: Candidate, settings: Mapping[str, Any], room: Room) -> str | None:
    """Return in words how far an engine is from fitting into free memory; None if it fits."""
    wanted = needed(candidate, settings, room.total)
    if wanted <= room.free:
        return None
    return f"{candidate.name} takes {gib(wanted)} GiB and {gib(room.free)} of {gib(room.total)} GiB are free"


def read_settings() -> dict[str, Any]:
    """Return what `deploy/vllm.yaml` says, with vLLM's own defaults for what is counted with here."""
    return {"gpu-memory-utilization": 0.92, "max-num-seqs": 256, **read_yaml(CONFIGURATION)}
