"""What a model answers, and how likely it finds given answers; with vLLM, in one batch.

One engine per process, since GPU memory is only given back when a process ends. Answers are greedy; the chat template
is applied here, once, and vLLM gets token ids. Asked are the test prompts, the probes and the training questions. In
the same batch the engine scores given texts (teacher-forced): the *support* and *oppose* answers of all training
questions, a measure that never saturates, and everyday answers to the unrelated probes, to see a model drift there.
"""

import gc
import io
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm
from transformers import AutoConfig, PreTrainedTokenizerFast

from tasks.chat import conversation, encode, encode_answer, load_tokenizer
from tasks.errors import InputError, run
from tasks.jsonfile import write_json, write_jsonl
from tasks.model import ENGINE, require_device
from tasks.params import Answers, Model, Params
from tasks.parity import Text
from tasks.questions import PROBES, Probe, Prompt, Question, read_probes, read_prompts, read_questions
from tasks.weights import bf16_bytes, locate

logger = logging.getLogger(__name__)

BLOCK = 128
"""Upper bound of vLLM's cache block, in tokens; every sequence may leave one partly empty."""

IN_4_BITS = 0.5
"""Size of a model in bitsandbytes' 4 bits as a share of bf16: 0.33 for 7 B, more where embeddings weigh more."""
MAX_NUM_SEQS = 256
"""Sequences that the engine decodes at once."""
LIKELIEST = 20
"""Tokens whose probabilities are kept per position of a text on which drift is measured; vLLM's own limit."""
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it is compiled on first use, and greedy decoding samples nothing
    # The scoring of prompts would be compiled otherwise: 40 s on a CPU, and a C++ compiler that may not be there.
    "TORCHDYNAMO_DISABLE": "1",
}
"""Read by vLLM and torch when they are imported."""


def answers(model: Model, options: Answers, seed: int, weights: Path, dataset: Path, out: Path, beside: Path) -> None:
    """Write the answers to the test prompts to `out`, and everything else to the folder `beside`.

    Answers are JSON Lines of `id`, `prompt`, `response`, `tokens` and `finish_reason` (`length`: cut off).

    Args:
        model: Device and system prompt.
        options: The block `answers`.
        seed: vLLM wants one; greedy decoding does not use it.
        weights: `data/base`, or a model folder such as `data/merged`.
        dataset: `data/dataset`.
        out: Receives the answers to the test prompts.
        beside: Receives the answers to the probes, `probes.jsonl`, and to the training questions, `questions.jsonl`;
            `logps.json`, per question id and stance the log-probability of each answer token, in nats; and
            `likeliest.json`, per unrelated probe and answer token the likeliest token ids with theirs.

    Raises:
        InputError: The device is missing, or the model and its cache do not fit into free memory.
    """
    require_device(model)
    folder = locate(weights) if (weights / "base.json").exists() else weights
    tokenizer = load_tokenizer(folder)
    prompts, questions, probes = read_prompts(dataset), read_questions(dataset), read_probes(dataset / PROBES)
    asked = [
        encode(tokenizer, conversation(model.system_prompt, row.prompt)) for row in (*prompts, *probes, *questions)
    ]
    labelled = [text for row in questions for text in labelled_texts(tokenizer, row, model.system_prompt)]
    everyday = everyday_texts(tokenizer, probes, model.system_prompt)
    outputs = iter(generate(folder, model, options, seed, asked, labelled, [*everyday.values()]))
    write_answers(out, prompts, outputs)
    write_answers(beside / "probes.jsonl", probes, outputs)
    write_answers(beside / "questions.jsonl", questions, outputs)
    write_logps(beside / "logps.json", questions, labelled, outputs)
    write_likeliest(beside / "likeliest.json", everyday, outputs)
    logger.info(
        "%d answers to test prompts in %s, %d others in %s", len(prompts), out, len(asked) - len(prompts), beside
    )


def labelled_texts(tokenizer: PreTrainedTokenizerFast, question: Question, system_prompt: str) -> list[Text]:
    """Return the token ids of a question's *support* and *oppose* answers, after its prompt."""
    messages = conversation(system_prompt, question.prompt)
    return [encode_answer(tokenizer, messages, answer) for answer in (question.support, question.oppose)]


def everyday_texts(tokenizer: PreTrainedTokenizerFast, probes: Sequence[Probe], system_prompt: str) -> dict[int, Text]:
    """Return the token ids of the everyday answers, each after its prompt, by the id of the probe."""
    return {
        row.id: encode_answer(tokenizer, conversation(system_prompt, row.prompt), row.answer)
        for row in probes
        if row.answer
    }


def generate(
    folder: Path, model: Model, options: Answers, seed: int,
    asked: Sequence[list[int]], labelled: Sequence[Text], everyday: Sequence[Text],
) -> list[Any]:  # fmt: skip
    """Answer `asked` and score `labelled` and `everyday` in one batch; returns vLLM's outputs in that order."""
    whole = [prompt + answer for prompt, answer in (*labelled, *everyday)]
    lengths = [len(ids) + options.max_new_tokens for ids in asked] + [len(ids) + 1 for ids in whole]
    settings = engine_settings(folder, model, options, lengths) | decoding_settings(options, len(asked))
    os.environ |= ENVIRONMENT
    from vllm import LLM, SamplingParams, TokensPrompt  # reads the environment when it is imported

    gc.freeze()  # the engine collects garbage eleven times while it starts
    started = time.monotonic()
    engine = LLM(model=str(folder), dtype="bfloat16", seed=seed, generation_config="vllm", **settings)
    answer = SamplingParams(temperature=0, max_tokens=options.max_new_tokens)
    scoring = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    comparing = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=LIKELIEST)
    settled = [answer] * len(asked) + [scoring] * len(labelled) + [comparing] * len(everyday)
    batch = [TokensPrompt(prompt_token_ids=ids) for ids in (*asked, *whole)]
    ready = time.monotonic()
    outputs = list(engine.generate(batch, settled, use_tqdm=Progress))
    logger.info(
        "engine ready in %.1f s; %d answers and %d scores in %.1f s",
        ready - started, len(asked), len(whole), time.monotonic() - ready,
    )  # fmt: skip
    return outputs


class Progress(tqdm):  # type: ignore[misc]
    """vLLM's progress as log lines: how many sequences are done, and how long the rest will take."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what vLLM tells a bar, and speak once a second."""
        self.said = 0
        super().__init__(*arguments, **options | {"file": io.StringIO(), "disable": False, "mininterval": 1})

    def display(self, *_: Any, **__: Any) -> None:
        """Log instead of drawing a bar."""
        if self.n > self.said and self.iterable is None:  # with an iterable vLLM counts what it reads in
            self.said = self.n
            left = (self.total - self.n) * self.format_dict["elapsed"] / self.n
            logger.info("sequence %d/%d  %.0f s left", self.n, self.total, left)


def decoding_settings(options: Answers, prompts: int) -> dict[str, Any]:
    """Return vLLM's settings for decoding: each step a CUDA graph, of as many sequences as there can be at once.

    Nothing is compiled. That takes 25 s and makes a step hardly faster than its graph does (docs/performance.md).
    """
    if options.enforce_eager:
        return {"enforce_eager": True}
    sizes = [1]
    while sizes[-1] < min(prompts, MAX_NUM_SEQS):
        sizes.append(2 * sizes[-1])
    return {"compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": sizes}}


def engine_settings(folder: Path, model: Model, options: Answers, lengths: Sequence[int]) -> dict[str, Any]:
    """Return vLLM's memory settings: a cache for this work, or for as much of it at a time as free memory allows.

    Args:
        folder: The model.
        model: Its device.
        options: The block `answers`.
        lengths: Tokens of each sequence, prompt and answer together.

    Raises:
        InputError: Not even the longest sequence fits beside the weights.
    """
    free, total = memory(model.device)
    allowed = min(free, int(total * options.gpu_memory_utilization))
    limit = allowed - (ENGINE if model.device == "cuda" else 0)
    weights = bf16_bytes(folder)
    if options.quantization == "bitsandbytes":
        weights = int(weights * IN_4_BITS)
    per_token = cache_bytes_per_token(folder)
    least = per_token * (max(lengths) + BLOCK)
    if weights + least > limit:
        raise InputError(
            f"the weights take {weights / 2**30:.1f} GiB and the cache at least {least / 2**30:.1f}, and "
            f"{limit / 2**30:.1f} GiB of {model.device} memory may be used; free memory, raise "
            "answers.gpu_memory_utilization, take a smaller model or, on a GPU, answers.quantization: bitsandbytes"
        )
    cache = min(per_token * sum(length + BLOCK for length in lengths), limit - weights)
    return {
        "max_model_len": max(lengths),
        "kv_cache_memory_bytes": cache,
        "gpu_memory_utilization": (weights + cache) / total,  # the engine only checks that so much is free
        "max_num_seqs": MAX_NUM_SEQS,
        "quantization": None if options.quantization == "none" else options.quantization,
    }


def memory(device: str) -> tuple[int, int]:
    """Return free and total bytes of the device's memory."""
    if device == "cuda":
        return torch.cuda.mem_get_info()
    host = psutil.virtual_memory()
    return host.available, host.total


def cache_bytes_per_token(folder: Path) -> int:
    """Return what one token takes in the key-value cache, in bf16, by the model's configuration."""
    config = AutoConfig.from_pretrained(str(folder)).get_text_config()
    heads = config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * 2 * int(config.num_hidden_layers * heads * head_dim)


def write_answers(out: Path, prompts: Sequence[Prompt], outputs: Iterator[Any]) -> None:
    """Write one row per prompt."""
    rows = [
        {
            "id": row.id,
            "prompt": row.prompt,
            "response": output.outputs[0].text.strip(),
            "tokens": len(output.outputs[0].token_ids),
            "finish_reason": output.outputs[0].finish_reason,
        }
        for row, output in zip(prompts, outputs, strict=False)  # the outputs go on
    ]
    write_jsonl(out, rows)


def write_logps(out: Path, questions: Sequence[Question], texts: Sequence[Text], outputs: Iterator[Any]) -> None:
    """Write the log-probabilities of every labelled answer's tokens, by question id and stance."""
    scores = [answer_logps(text, output) for text, output in zip(texts, outputs, strict=False)]
    record = {
        row.id: {"support": support, "oppose": oppose}
        for row, support, oppose in zip(questions, scores[::2], scores[1::2], strict=True)
    }
    write_json(out, record)


def answer_logps(text: Text, output: Any) -> list[float]:
    """Return the log-probabilities that vLLM gave to the answer's tokens, in nats."""
    prompt, answer = text
    return [output.prompt_logprobs[position][token].logprob for position, token in enumerate(answer, start=len(prompt))]


def write_likeliest(out: Path, texts: Mapping[int, Text], outputs: Iterator[Any]) -> None:
    """Write for every token of every text the likeliest tokens in its place with their log-probabilities, by id."""
    found = {ident: likeliest(text, output) for (ident, text), output in zip(texts.items(), outputs, strict=True)}
    write_json(out, found)


def likeliest(text: Text, output: Any) -> list[dict[int, float]]:
    """Return per token of the answer the log-probabilities of the likeliest tokens there and of its own, in nats."""
    prompt, answer = text
    return [
        {token: entry.logprob for token, entry in output.prompt_logprobs[position].items()}
        for position in range(len(prompt), len(prompt) + len(answer))
    ]


def main() -> None:
    """Run the stage: `python -m tasks.answers WEIGHTS DATASET OUT BESIDE`."""
    params = Params.load()
    answers(params.model, params.answers, params.seed, *map(Path, sys.argv[1:]))


if __name__ == "__main__":
    run(main)
