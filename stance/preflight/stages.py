"""GPU memory, host memory and disk that each stage will take, computed before a run.

Weights, adapter and optimiser are counted exactly. The activations per token are what autograd saves in one layer,
counted on a CPU, and agree with measurements on a GPU (docs/performance.md). No stage holds the logits of a batch: TRL
computes them in tiles.
"""

from collections.abc import Mapping
from typing import NamedTuple

from stance.config.params import Params
from stance.config.road import Reward, Rl
from stance.config.training import Sft
from stance.inference.batch import BF16, BLOCK
from stance.machine.memory import GIB
from stance.models.loading import ENGINE
from stance.preflight.sizes import FP32, Sizes, Texts

STATE_8_BIT, STATE_32_BIT = 2, 8
"""Bytes of Adam's two moments per parameter."""
PROCESS = 3 * GIB
"""Host memory of Python, torch and its libraries with CUDA."""
CONTEXT = 0.6 * GIB
"""GPU memory of the CUDA context and its libraries' workspaces."""
SHARD = 5 * 10**9
"""Bytes of the largest file of weights of a model on the Hub."""


class Need(NamedTuple):
    """Bytes that a stage takes. On a CPU the model is in host memory, and `gpu` is 0."""

    gpu: float
    """On each GPU that the stage uses."""
    host: float
    disk: float


class Here(NamedTuple):
    """Bytes that this machine has."""

    gpu: float
    """Total memory of a GPU, used or free; 0 if there is no GPU."""
    host: float
    disk: float
    """Free bytes, including those of the merged model that the run will replace."""


def needs(params: Params, found: Mapping[str, Sizes], texts: Texts, here: Here) -> dict[str, Need]:
    """Return the needs of the stages that take much memory, those on the road of the run alone.

    Args:
        params: All of them.
        found: Sizes of the base model, as `shapes` returns them.
        texts: Tokens of the longest texts.
        here: Sizes of this machine. If the merged model does not fit on the GPU, it is scored on the CPU.
    """
    stages = road(params, found, texts) | answering(params, found["train"])
    if params.model.device == "cpu":
        return {stage: Need(0, need.gpu + need.host, need.disk) for stage, need in stages.items()}
    if stages["merge"].gpu > here.gpu:
        size = found["train"]
        stages["merge"] = Need(size.nf4 + CONTEXT + GIB, PROCESS + size.bf16, size.bf16)
    return stages


def road(params: Params, found: Mapping[str, Sizes], texts: Texts) -> dict[str, Need]:
    """Return the needs of the stages up to the trained adapter, in their order. On a CPU, `gpu` is in host memory."""
    size, stages = found["train"], {}
    if params.sft and params.fine_tunes:
        disk = size.bf16 if params.fine_tunes_whole else FP32 * size.adapter
        stages["sft"] = Need(fine_tuning(params, params.sft, size, texts), PROCESS, disk)
    if params.sample:
        stages["sample"] = sampling(params, size)
    if params.align.method == "dpo":
        stages["train"] = preferring(params, size, texts)
        return stages
    if params.reward:
        gpu = rewarding(params, params.reward, found["reward"], texts)
        stages["reward"] = Need(gpu, PROCESS, FP32 * found["reward"].adapter)
    if params.rl:
        stages["rl"] = reinforcing(params, params.rl, found, texts)
    return stages


def answering(params: Params, size: Sizes) -> dict[str, Need]:
    """Return the needs of the stages from the trained adapter to the answers."""
    parts = params.model.parts
    return {
        "merge": Need(size.whole + CONTEXT + GIB, PROCESS + min(SHARD, size.bf16), size.bf16),
        "answers": Need(engine(params, size) / parts + overhead(params), PROCESS * (parts + (parts > 1)), 0),
    }


def held(weights: float, size: Sizes, tokens: int, checkpointing: bool, moments: int, reference: bool) -> float:
    """Return the bytes of device memory that a training holds.

    Args:
        weights: Bytes of the base.
        size: Its sizes with the adapter.
        tokens: Tokens of all rows that are computed at once.
        checkpointing: Whether activations are recomputed.
        moments: Bytes of Adam's moments per trained parameter.
        reference: Whether a copy of the adapter is the reference.
    """
    kept = size.checkpointed if checkpointing else size.kept
    return weights + size.adapter * (2 * FP32 + moments + FP32 * reference) + tokens * kept + CONTEXT


def policy_weights(params: Params, size: Sizes) -> int:
    """Return the bytes of the base of a policy in training. On a CPU its weights are dequantised once."""
    quantised = params.model.quantization == "nf4" and params.model.device == "cuda"
    return size.nf4 if quantised else size.whole


def moments(params: Params) -> int:
    """Return the bytes of Adam's moments per parameter that `train` or `sft` trains."""
    return STATE_8_BIT if "8bit" in params.train.optim else STATE_32_BIT


def preferring(params: Params, size: Sizes, texts: Texts) -> Need:
    """Return the need of DPO: two rows for each pair, and the two newest checkpoints on the disk."""
    options, devices = params.train, params.model.devices
    micro, _ = options.shared(devices)
    tokens = 2 * micro * min(texts.answered, options.max_length)
    weights, reference = policy_weights(params, size), params.fine_tunes_adapter
    gpu = held(weights, size, tokens, options.gradient_checkpointing, moments(params), reference)
    in_host = devices if params.model.device == "cpu" else 1  # each process has a model of its own
    return Need(gpu * in_host, PROCESS * devices, 2 * size.adapter * (FP32 + moments(params)))


def fine_tuning(params: Params, options: Sft, size: Sizes, texts: Texts) -> float:
    """Return the bytes of device memory of `sft`: a row for each answer; own texts may have the full length."""
    shape = params.train
    row = shape.max_length if options.plain_text or options.conversations else min(texts.answered, shape.max_length)
    tokens = shape.per_device_train_batch_size * row
    weights = policy_weights(params, size)
    if params.fine_tunes_whole:  # fp32 weights count like an adapter, and bf16 copies of them like the base
        weights = size.whole if size.itemsize == BF16 else 0
        size = size._replace(adapter=size.linear + size.other)
    return held(weights, size, tokens, shape.gradient_checkpointing, moments(params), False)


def engine(params: Params, size: Sizes) -> int:
    """Return the bytes of the weights in vLLM."""
    return size.nf4 if params.answers.quantization == "bitsandbytes" else size.whole


def overhead(params: Params) -> int:
    """Return the bytes that vLLM takes beside weights and cache, on each GPU."""
    return 0 if params.model.device == "cpu" else ENGINE


def sampling(params: Params, size: Sizes) -> Need:
    """Return the need of `sample`: that of `answers`, and the adapter of the fine-tuning."""
    answers = answering(params, size)["answers"]
    return answers._replace(gpu=answers.gpu + BF16 * size.adapter * params.fine_tunes_adapter)


def reward_weights(params: Params, size: Sizes) -> int:
    """Return the bytes of a reward model's base, which has no head over the vocabulary."""
    return policy_weights(params, size) - size.itemsize * size.head


def judge(params: Params, size: Sizes) -> int:
    """Return the bytes of the layers that a judge by hidden states holds: in bf16, on a CPU in fp32."""
    return (FP32 if params.model.device == "cpu" else BF16) * size.lower


def rewarding(params: Params, options: Reward, size: Sizes, texts: Texts) -> float:
    """Return the bytes of device memory of `reward`: the training, or the judge that its rewards are compared with.

    A pair has two rows, and a score has one.
    """
    sampled = texts.asked + params.answers.max_new_tokens
    row = texts.answered if options.source == "preferences" else sampled
    rows = options.per_device_train_batch_size * (1 if options.source == "scores" else 2)
    tokens = rows * min(row, options.max_length)
    weights = reward_weights(params, size)
    trained = held(weights, size, tokens, options.gradient_checkpointing, STATE_32_BIT, False)
    return max(trained, 0 if texts.chinese else judge(params, size) + CONTEXT)


def reinforcing(params: Params, options: Rl, found: Mapping[str, Sizes], texts: Texts) -> Need:
    """Return the need of `rl`: the policy, the reward model, the judges that read hidden states, and vLLM."""
    size, cuda = found["rl"], params.model.device == "cuda"
    rounded = options.use_vllm and params.model.quantization == "nf4"  # vLLM gets the 4-bit weights in bf16, as files
    gpu = policy_and_engine(params, options, size, texts)
    if options.reward_model_weight and params.reward:
        gpu += reward_weights(params, found["reward"]) + FP32 * found["reward"].adapter
    gpu += ((not texts.chinese) + (options.stance_judge_weight > 0)) * judge(params, size)
    host = PROCESS + (min(SHARD, size.bf16) if rounded and cuda else 0)
    return Need(gpu, host, FP32 * size.adapter + rounded * size.bf16)


def policy_and_engine(params: Params, options: Rl, size: Sizes, texts: Texts) -> float:
    """Return the bytes of device memory of the policy in training and of what draws its answers.

    vLLM keeps its weights and its cache all the time. The cache of transformers is gone when the training begins.
    """
    row = texts.asked + options.max_completion_length
    answers = options.num_generations * options.prompts_per_step
    weights, reference = policy_weights(params, size), params.fine_tunes_adapter

    def policy(tokens: int) -> float:
        return held(weights, size, tokens, options.gradient_checkpointing, STATE_32_BIT, reference)

    trained = policy(options.per_device_train_batch_size * row)
    if not options.use_vllm:
        return max(trained, policy(0) + answers * row * size.cache)
    cache = answers * (row + BLOCK) * size.cache
    return trained + engine(params, size) + BF16 * size.adapter + cache + overhead(params)
