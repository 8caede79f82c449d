"""Environment variables of vLLM, for the engine of a stage and for the endpoint's engines.

vLLM and torch read them when they are imported.
"""

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it is compiled on first use, and greedy decoding samples nothing
    # Without this the scoring of prompts is compiled: 40 s on a CPU, with a C++ compiler that may be missing.
    "TORCHDYNAMO_DISABLE": "1",
}
"""For every engine."""
ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""The model runs in the engine's own process; a second process takes ten more seconds to start."""
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR"}
"""A stage logs its own lines."""
