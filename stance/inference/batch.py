"""One batch of prompts through vLLM: its memory, its decoding and its progress.

Decoding is greedy, unless a prompt asks for drawn answers.

A process starts one engine only, because GPU memory is freed only when the process ends.
"""

import gc
import io
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm
from transformers import AutoConfig, PretrainedConfig

from stance.config.evaluation import Answers
from stance.config.models import Model
from stance.errors import InputError
from stance.inference.environment import ENVIRONMENT, ONE_PROCESS, QUIET, without_others
from stance.machine.files import read_json
from stance.machine.memory import gib, own_memory
from stance.models.base import bf16_bytes
from stance.models.loading import ENGINE, arithmetic, require_devices

logger = logging.getLogger(__name__)

Request = tuple[list[int], dict[str, Any]]
"""A prompt: its token ids, and arguments of vLLM's `SamplingParams`, at least `max_tokens`. Without a `temperature`
decoding is greedy. A further argument, `choice`, lists the only texts that may be answered."""
BLOCK = 128
"""Largest size of a block of vLLM's cache, in tokens. Every sequence may leave one block partly empty."""
IN_4_BITS = 0.5
"""Size of a model in 4 bits (bitsandbytes) as a share of its size in bf16: 0.33 for 7 B parameters, and more for a
smaller model, whose embeddings weigh more."""
BF16 = 2
"""Bytes of a number in bf16."""
SEED = 0
"""The seed of the engine, and of drawn answers without a `seed` of their own. `params.seed` does not reach the engine,
so that two runs with different seeds draw alike; the stage `sample` gives every answer its own."""
MAX_NUM_SEQS = 256
"""Number of sequences that the engine decodes at once."""
EARLY = 0.1
"""Share of the sequences before which the seconds that are left are no estimate: many begin before the first ends."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM reserves memory for."""


def complete(
    folder: Path, model: Model, options: Answers, batch: Sequence[Request], adapter: Path | None = None
) -> list[Any]:
    """Return vLLM's output for every prompt of a batch, in the order of the batch, from an engine that ends with it.

    Args:
        folder: The model.
        model: Its devices.
        options: The block `answers`.
        batch: The prompts.
        adapter: A LoRA adapter that the engine adds to the model; None for the model alone.

    Raises:
        InputError: As in `engine_for`.
    """
    engine = engine_for(folder, model, options, batch, adapter_rank(adapter) if adapter else 0)
    return generate(engine, batch, adapter)


def engine_for(folder: Path, model: Model, options: Answers, batch: Sequence[Request], rank: int = 0) -> Any:
    """Start an engine whose cache suits a batch; arguments as for `complete`. With a rank it takes LoRA adapters.

    Raises:
        InputError: There are fewer GPUs than `model.devices`, a prompt is longer than the model can read, or the model
            and its cache do not fit into free memory.
    """
    require_devices(model)
    lengths = [len(ids) + settings["max_tokens"] for ids, settings in batch for _ in range(settings.get("n", 1))]
    require_window(folder, max(lengths))
    settings = engine_settings(folder, model, options, lengths) | decoding_settings(options, answered(batch))
    started = time.monotonic()
    logger.info("starting the engine for %d sequences; on a CPU the first one ends after a minute or two", len(batch))
    engine = start_engine(folder, settings | (lora_settings(rank) if rank else {}))
    logger.info("engine ready in %.1f s", time.monotonic() - started)
    return engine


def generate(engine: Any, batch: Sequence[Request], adapter: Path | None = None) -> list[Any]:
    """Return the output of an engine from `engine_for`; `batch`, `adapter` and the result are those of `complete`."""
    from vllm import TokensPrompt

    prompts = [TokensPrompt(prompt_token_ids=ids) for ids, _ in batch]
    sampling = [sampling_params(**settings) for _, settings in batch]
    lora = lora_request(adapter, 1) if adapter else None
    began, decoding = time.monotonic(), answered(batch)
    outputs = list(engine.generate(prompts, sampling, use_tqdm=Progress, lora_request=lora))
    logger.info("%d answers and %d scores in %.1f s", decoding, len(batch) - decoding, time.monotonic() - began)
    return outputs


def exchange(engine: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Give an engine on one device other weights of the same model, by the names in its files.

    Raises:
        RuntimeError: The engine still answers.
    """
    engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    if not engine.reset_prefix_cache():
        raise RuntimeError("vLLM still answers, and keeps what it has computed with the weights of before")


def answered(batch: Sequence[Request]) -> int:
    """Return the number of prompts that are answered; the others are texts that are scored."""
    return sum(settings["max_tokens"] > 1 for _, settings in batch)


def start_engine(folder: Path, settings: Mapping[str, Any]) -> Any:
    """Return vLLM's engine for a model; `settings` are arguments of vLLM's `LLM`."""
    own = ENVIRONMENT | ONE_PROCESS | QUIET
    for name in os.environ.keys() - without_others(os.environ):
        if os.environ.pop(name) != own.get(name):  # the fork server has set some as here
            logger.info("%s is set in your shell and does not count here", name)
    os.environ |= own
    from vllm import LLM  # vLLM reads the environment when it is imported

    gc.freeze()  # the engine collects garbage eleven times while it starts
    return LLM(model=str(folder), seed=SEED, generation_config="vllm", **settings)


def lora_settings(rank: int) -> dict[str, Any]:
    """Return vLLM's settings for one LoRA adapter of a rank."""
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(size for size in RANKS if size >= rank)}


def adapter_rank(adapter: Path) -> int:
    """Return the rank of a LoRA adapter."""
    return int(read_json(adapter / "adapter_config.json")["r"])


def lora_request(adapter: Path, number: int) -> Any:
    """Return vLLM's name of an adapter. Files under a number that the engine has seen are not read again."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(f"adapter-{number}", number, str(adapter))


def require_window(folder: Path, longest: int) -> None:
    """Refuse a prompt that has, together with its answer, more tokens than the model can read."""
    window = AutoConfig.from_pretrained(str(folder)).get_text_config().max_position_embeddings
    if longest > window:
        raise InputError(
            f"the longest prompt and its answer take {longest} tokens and the model reads {window}; shorten the "
            "questions or answers.max_new_tokens, or take another model"
        )


def engine_settings(folder: Path, model: Model, options: Answers, lengths: Sequence[int]) -> dict[str, Any]:
    """Return vLLM's arithmetic and memory: a cache for the whole batch, or for as much of it as fits into free memory.

    Args:
        folder: The model.
        model: Its devices.
        options: The block `answers`.
        lengths: Number of tokens of each sequence, prompt and answer together.

    Raises:
        InputError: Not even the longest sequence fits beside the weights.
    """
    free, total = own_memory(model.device, model.parts)
    allowed = min(free, int(total * options.gpu_memory_utilization))
    limit = allowed - (model.parts * ENGINE if model.device == "cuda" else 0)
    dtype = arithmetic(model.device)
    weights = bf16_bytes(folder) * dtype.itemsize // BF16
    if options.quantization == "bitsandbytes":
        weights = int(weights * IN_4_BITS)
    per_token = cache_bytes_per_token(folder, dtype.itemsize)
    least = per_token * (max(lengths) + BLOCK)
    if weights + least > limit:
        raise InputError(
            f"the weights take {gib(weights)} GiB and the cache at least {gib(least)}, and "
            f"{gib(limit)} GiB of {model.device} memory may be used; free memory, raise "
            "answers.gpu_memory_utilization, take a smaller model or, on a GPU, answers.quantization: bitsandbytes"
        )
    cache = min(per_token * sum(length + BLOCK for length in lengths), limit - weights)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "max_model_len": max(lengths),
        "kv_cache_memory_bytes": cache // model.parts,  # on each device
        "gpu_memory_utilization": (weights + cache) / total,  # the engine only checks that so much is free
        "max_num_seqs": MAX_NUM_SEQS,
        # vLLM's worker on a CPU ends with an error where the prompt of an answer with a seed is split over two steps.
        "enable_chunked_prefill": model.device == "cuda",
        "tensor_parallel_size": model.parts,
        "quantization": None if options.quantization == "none" else options.quantization,
    }


def cache_bytes_per_token(folder: Path, itemsize: int = BF16) -> int:
    """Return the bytes of one token in the key-value cache of the model in a folder; `itemsize` as below."""
    return cache_per_token(AutoConfig.from_pretrained(str(folder)), itemsize)


def cache_per_token(config: PretrainedConfig, itemsize: int) -> int:
    """Return the bytes of one token in the key-value cache, from the model's configuration.

    Args:
        config: The configuration.
        itemsize: Bytes of a number in the cache.
    """
    text = config.get_text_config()
    groups = getattr(text, "num_key_value_heads", None) or getattr(text, "num_kv_heads", None)
    heads = groups or text.num_attention_heads  # each attention head has keys of its own where no number is named
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * itemsize * int(text.num_hidden_layers * heads * head_dim)


def decoding_settings(options: Answers, prompts: int) -> dict[str, Any]:
    """Return vLLM's settings for decoding: CUDA graphs for every number of sequences that can be decoded at once.

    Nothing is compiled: that takes 25 s and makes a step hardly faster than its graph does (docs/performance.md).
    """
    if options.enforce_eager:
        return {"enforce_eager": True}
    sizes = [1]
    while sizes[-1] < min(prompts, MAX_NUM_SEQS):
        sizes.append(2 * sizes[-1])
    return {"compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": sizes}}


def sampling_params(choice: Sequence[str] = (), temperature: float = 0.0, **settings: Any) -> Any:
    """Return vLLM's settings for a prompt, greedy by default; the answer is one of `choice`, if there are any."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    constraint = StructuredOutputsParams(choice=list(choice)) if choice else None
    return SamplingParams(temperature=temperature, structured_outputs=constraint, **settings)


class Progress(tqdm):  # type: ignore[misc]
    """vLLM's progress as log lines: the number of finished sequences, and the seconds that are left."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take vLLM's arguments of a progress bar; log at most once a second."""
        self.logged = 0
        super().__init__(*arguments, **options | {"file": io.StringIO(), "disable": False, "mininterval": 1})

    def display(self, *_: Any, **__: Any) -> None:
        """Log instead of drawing a bar."""
        if self.n > self.logged and self.iterable is None:  # with an iterable, vLLM counts the prompts that it reads
            self.logged = self.n
            left = (self.total - self.n) * self.format_dict["elapsed"] / self.n
            early = self.n < EARLY * self.total
            logger.info("sequence %d/%d%s", self.n, self.total, "" if early else f"  {left:.0f} s left")
