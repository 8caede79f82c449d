"""Environment variables of vLLM, for the engine of a stage and for the endpoint's engines.

vLLM and torch read them when they are imported.
"""

from collections.abc import Mapping

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it is compiled on first use, and greedy decoding samples nothing
    # Without this the scoring of prompts is compiled: 40 s on a CPU, with a C++ compiler that may be missing.
    "TORCHDYNAMO_DISABLE": "1",
}
"""For every engine."""
ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""The model runs in the engine's own process; a second process takes ten more seconds to start."""
OF_THE_MACHINE = frozenset(
    {"VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "VLLM_ASSETS_CACHE", "VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS"}
)
"""Variables of vLLM that a user may set: folders, and how much is logged. All others would replace what this project
has worked out, for example VLLM_CPU_KVCACHE_SPACE the size of the cache."""


def without_others(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without those variables of vLLM that would replace the settings of this project."""
    return {name: value for name, value in variables.items() if not name.startswith("VLLM_") or name in OF_THE_MACHINE}


QUIET = {"VLLM_LOGGING_LEVEL": "ERROR"}
"""A stage logs its own lines."""
