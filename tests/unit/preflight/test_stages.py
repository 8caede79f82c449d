"""What the stages of the long road take: sums that are worked out by hand, for a model of a few thousand weights.

With 64 000 weights in linear layers and 20 000 others, of which the head has 8 000:

* whole, in bf16: 2 x 84 000 = 168 000 bytes
* in 4 bits: 0.5625 x 64 000 + 2 x 20 000 = 76 000 bytes; without the head, as a reward model, 60 000
* an adapter of 1 000 weights in training: weights, gradients and two moments in fp32, 16 000 bytes; a copy of it 4 000
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, MistralConfig

from benchmarks.breeze_shape import BREEZE
from stance.config.params import Params
from stance.config.profiles import compose
from stance.errors import InputError
from stance.evaluation.hidden_state import DEPTHS
from stance.inference.batch import BLOCK as ENGINE_BLOCK
from stance.inference.batch import cache_bytes_per_token
from stance.machine.memory import GIB
from stance.preflight.checks import check_fit, check_model
from stance.preflight.footprint import changed, check, suggestion
from stance.preflight.sizes import DEEPEST, Sizes, Texts, shapes
from stance.preflight.stages import BLOCK, CONTEXT, PROCESS, Here, Need, needs
from tests.builders.small_run import params as small_run

ROOMY = Here(1e15, 1e15, 1e15)
TEXTS = Texts(answered=80, asked=50, chinese=True)
SIZE = Sizes(linear=64_000, other=20_000, head=8_000, lower=30_000, adapter=1_000, kept=100, checkpointed=10, cache=5)
FOUND = {"train": SIZE, "reward": SIZE._replace(adapter=2_000, kept=200), "rl": SIZE}
ON_A_CPU = {"model.device": "cpu", "train.optim": "adamw_torch"}
SAMPLE = {"num_answers": 4, "draws": 8, "temperature": 1.0, "top_p": 1.0, "max_similarity": 0.8}
BY_THE_JUDGE = {"reward": None, "rl__reward_model_weight": 0, "rl__stance_judge_weight": 1}
WITHOUT_VLLM = {"rl__use_vllm": False}
WHOLE = {"method": "full", "num_epoch": 1, "learning_rate": 2e-5}
OWN_TEXT = {"path": "texts.jsonl", "num_epoch": 1, "learning_rate": 1e-4}


def long_road(**overrides: Any) -> Params:
    """Return the profile of Breeze with the long road of SmolLM2: 32 answers of 48 tokens, rewarded by a model."""
    road = compose("smollm2-135m-rlhf")
    values = compose("breeze-7b") | {name: road[name] for name in ("align", "sft", "reward", "rl")}
    for name, value in overrides.items():
        block, _, key = name.partition("__")
        values[block] = values[block] | {key: value} if key else value
    return Params.parse(values, "test")


def on_a_cpu(chosen: Params) -> Params:
    return changed(chosen, ON_A_CPU)


def stages(chosen: Params, texts: Texts = TEXTS, **sizes: Any) -> dict[str, Need]:
    return needs(chosen, FOUND | sizes, texts, ROOMY)


def gpu(stage: str, texts: Texts = TEXTS, **overrides: Any) -> float:
    """Return what a stage takes beside torch's own 0.6 GiB."""
    return stages(long_road(**overrides), texts)[stage].gpu - CONTEXT


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({}, ["sft", "reward", "rl", "merge", "answers"]),
        ({"sft": None}, ["reward", "rl", "merge", "answers"]),
        ({"sft__num_epoch": 0, "sample": SAMPLE}, ["sample", "reward", "rl", "merge", "answers"]),
        ({"align__method": "dpo"}, ["sft", "train", "merge", "answers"]),
        (BY_THE_JUDGE, ["sft", "rl", "merge", "answers"]),
    ],
)
def test_the_stages_on_the_road_are_stated_and_no_others(overrides: dict[str, Any], names: list[str]):
    assert list(stages(long_road(**overrides))) == names


def test_a_fine_tuning_has_one_row_for_an_answer():
    """8 rows of 80 tokens, 100 bytes each."""
    assert gpu("sft") == 76_000 + 16_000 + 8 * 80 * 100


def test_a_fine_tuning_of_all_weights_has_them_in_fp32_beside_copies_in_bf16():
    """84 000 weights: 4 bytes each and for its gradient, 8 for the moments, 2 for the copy. The file is in bf16."""
    assert gpu("sft", sft=WHOLE) == 84_000 * (4 + 4 + 8 + 2) + 8 * 80 * 100
    assert gpu("sft", sft=WHOLE, train__optim="adamw_8bit") == 84_000 * (4 + 4 + 2 + 2) + 8 * 80 * 100
    assert stages(long_road(sft=WHOLE))["sft"].disk == 168_000


@pytest.mark.parametrize(("stage", "align"), [("train", "dpo"), ("rl", "rlhf")])
def test_after_a_fine_tuning_of_all_weights_no_copy_of_an_adapter_is_the_reference(stage: str, align: str):
    chosen = {"align__method": align, **WITHOUT_VLLM}
    assert gpu(stage, sft=WHOLE, **chosen) == gpu(stage, sft=None, **chosen)


@pytest.mark.parametrize("own", [{"sft__plain_text": OWN_TEXT}, {"sft__conversations": "conversations.jsonl"}])
def test_rows_of_own_texts_may_have_the_full_length(own: dict[str, Any]):
    assert gpu("sft", **own) == 76_000 + 16_000 + 8 * 512 * 100


def test_dpo_after_a_fine_tuning_has_two_rows_and_a_copy_of_the_adapter():
    assert gpu("train", align__method="dpo") == 76_000 + 16_000 + 4_000 + 2 * 8 * 80 * 100
    assert gpu("train", align__method="dpo", sft=None) == 76_000 + 16_000 + 2 * 8 * 80 * 100


def test_drawing_takes_the_engine_the_whole_weights_and_the_adapter_in_bf16():
    drawn = stages(long_road(sample=SAMPLE))["sample"]
    assert drawn == Need(168_000 + 2_000 + 3 * GIB, 3 * GIB, 0)
    in_4_bits = long_road(sample=SAMPLE, answers__quantization="bitsandbytes", sft=None)
    assert stages(in_4_bits)["sample"].gpu == 76_000 + 3 * GIB


def test_a_reward_model_has_two_rows_for_a_pair_and_no_head():
    """8 pairs of 80 tokens, 200 bytes each, and an adapter of 2 000 weights."""
    assert gpu("reward") == 60_000 + 32_000 + 2 * 8 * 80 * 200


@pytest.mark.parametrize(
    ("source", "new_tokens", "tokens"),
    [
        ("votes", 200, 2 * 8 * (50 + 200)),
        ("scores", 200, 8 * (50 + 200)),
        ("votes", 300, 2 * 8 * 256),  # reward.max_length: a longer one is refused
    ],
)
def test_sampled_answers_may_be_as_long_as_the_model_answers(source: str, new_tokens: int, tokens: int):
    chosen = {"reward__source": source, "sample": SAMPLE, "answers__max_new_tokens": new_tokens}
    assert gpu("reward", **chosen) == 60_000 + 32_000 + tokens * 200


def test_a_judge_by_hidden_states_may_take_more_than_the_reward_model():
    wide, english = FOUND["reward"]._replace(lower=500_000), TEXTS._replace(chinese=False)
    assert stages(long_road(), english, reward=wide)["reward"].gpu - CONTEXT == 2 * 500_000
    assert stages(long_road(), TEXTS, reward=wide)["reward"].gpu == stages(long_road())["reward"].gpu


def test_a_policy_is_beside_its_reward_model_and_its_reference():
    """32 answers at once, of 50 + 48 tokens. The reward model has 60 000 bytes and an adapter of 2 000 weights."""
    policy = 76_000 + 16_000 + 4_000 + 32 * 98 * 100
    assert gpu("rl", rl__use_vllm=False) == policy + 60_000 + 8_000
    assert gpu("rl", rl__use_vllm=False, sft=None) == policy - 4_000 + 60_000 + 8_000
    assert gpu("rl", rl__use_vllm=False, **BY_THE_JUDGE) == policy + 2 * 30_000


def test_transformers_draws_before_the_gradients_so_that_the_larger_of_the_two_counts():
    """One answer at once keeps 98 x 100 bytes, and the cache of all 32 answers 32 x 98 x 5."""
    policy = 76_000 + 16_000 + 4_000 + max(98 * 100, 32 * 98 * 5)
    found = gpu("rl", rl__use_vllm=False, rl__per_device_train_batch_size=1)
    assert found == policy + 60_000 + 8_000
    assert max(98 * 100, 32 * 98 * 5) == 15_680


def test_vllm_keeps_whole_weights_an_adapter_and_its_cache_beside_the_policy():
    """The cache has 50 + 48 tokens for each of 32 answers, and a block of 128 that it may leave empty."""
    engine = 168_000 + 2_000 + 32 * (98 + 128) * 5 + 3 * GIB
    assert gpu("rl") == gpu("rl", rl__use_vllm=False) + engine


def test_vllm_reads_4_bit_weights_as_files_in_bf16():
    """168 000 bytes on the disk, beside the adapter, and a file of them in host memory while they are written."""
    assert stages(long_road())["rl"][1:] == (PROCESS + 168_000, 4_000 + 168_000)
    assert stages(long_road(model__quantization="none"))["rl"][1:] == (PROCESS, 4_000)
    assert stages(long_road(rl__use_vllm=False))["rl"][1:] == (PROCESS, 4_000)


@pytest.mark.parametrize(("chinese", "rewarded", "readers"), [(True, 0, 0), (True, 1, 1), (False, 0, 1), (False, 1, 2)])
def test_judges_by_hidden_states_stay_beside_the_policy(chinese: bool, rewarded: int, readers: int):
    """Each has the 30 000 weights of the lower layers in bf16. A rewarded judge needs another one as the ruler."""
    texts = TEXTS._replace(chinese=chinese)
    without = gpu("rl")
    assert gpu("rl", texts, rl__stance_judge_weight=rewarded) == without + readers * 60_000


def test_on_a_cpu_everything_is_in_host_memory_and_the_reward_model_is_whole():
    """The policy is dequantised: 2 x 84 000. The reward model has no head: 2 x 76 000. A judge computes in fp32.

    The engine has no room of its own.
    """
    found = stages(on_a_cpu(long_road()), TEXTS._replace(chinese=False))
    assert {need.gpu for need in found.values()} == {0}
    own = CONTEXT + PROCESS
    assert found["sft"].host - own == 168_000 + 16_000 + 8 * 80 * 100
    assert found["reward"].host - own == 152_000 + 32_000 + 2 * 8 * 80 * 200
    policy, engine = 168_000 + 16_000 + 4_000 + 32 * 98 * 100, 168_000 + 2_000 + 32 * (98 + 128) * 5
    assert found["rl"].host - own == policy + engine + 152_000 + 8_000 + 4 * 30_000
    assert found["answers"].host == 168_000 + PROCESS


@pytest.fixture(scope="module")
def breeze() -> dict[str, Sizes]:
    return shapes(MistralConfig(**BREEZE), long_road())


def test_a_reinforcement_learning_trains_the_adapter_of_the_fine_tuning(breeze):
    """`train` has rank 64 on q and v, `rl` has rank 16 on all seven layers, and no dropout either way."""
    q_and_v, all_layers = (4096 + 4096) + (4096 + 1024), 2 * 8192 + 2 * 5120 + 3 * 18432
    assert breeze["rl"].adapter == 32 * 64 * q_and_v
    assert breeze["train"].kept - breeze["rl"].kept == 33 * 2 * 4096  # the mask of the dropout, and 32 layers + 1
    alone = shapes(MistralConfig(**BREEZE), long_road(sft=None))
    assert alone["rl"].adapter == 32 * 16 * all_layers


def test_the_parts_of_breeze(breeze):
    """The head has a row of 4096 for each of 61 952 tokens, and so have the embeddings; 20 of 32 layers are lower.

    A token's keys and values: 32 layers, 8 heads of 128, two bytes.
    """
    size, norms = breeze["train"], 65 * 4096
    assert size.head == 61_952 * 4096
    assert size.lower == size.linear * 20 // 32 + 61_952 * 4096 + norms
    assert size.cache == 2 * 32 * 8 * 128 * 2


def test_a_head_that_is_the_embeddings_counts_once():
    tied = shapes(MistralConfig(**BREEZE | {"tie_word_embeddings": True}), long_road())["train"]
    assert (tied.head, tied.other) == (0, 61_952 * 4096 + 65 * 4096)


def test_a_cpu_without_products_of_bf16_takes_twice_for_what_is_not_quantised(breeze, monkeypatch):
    monkeypatch.setattr("stance.preflight.sizes.arithmetic", lambda device: torch.float32)
    wide = shapes(MistralConfig(**BREEZE), long_road())["train"]
    assert wide.whole == 2 * breeze["train"].whole
    assert wide.bf16 == breeze["train"].bf16
    assert wide.nf4 - breeze["train"].nf4 == 2 * breeze["train"].other
    assert wide.cache == 2 * breeze["train"].cache
    assert breeze["train"].kept < wide.kept < 2 * breeze["train"].kept  # norms are in fp32 either way


def test_what_is_restated_here_is_what_the_stages_do(tiny_model: Path):
    assert (DEPTHS[-1], ENGINE_BLOCK) == (DEEPEST, BLOCK)
    size = shapes(AutoConfig.from_pretrained(str(tiny_model)), small_run(tiny_model))["train"]
    assert size.cache == cache_bytes_per_token(tiny_model, size.itemsize)


def test_a_layer_that_only_a_later_stage_adapts_is_refused_first():
    for block in ("reward", "rl"):
        with pytest.raises(InputError, match=rf"^{block}.target_modules names c_attn, which a mistral does not have"):
            shapes(MistralConfig(**BREEZE), long_road(**{f"{block}__target_modules": ["c_attn"]}))


@pytest.mark.parametrize(
    ("size", "overrides", "sentence"),
    [
        (8, {}, "sft takes about 10.1 GiB of GPU memory and there are 8.0; set train.per_device_train_batch_size to"),
        (
            14,
            {},
            "reward takes about .* there are 14.0; set reward.per_device_train_batch_size to 8 and gradient_check",
        ),
        (40, {}, r"rl takes about .* there are 40.0; set rl.per_device_train_batch_size to \d+ and gradient_check"),
        (20, {}, "rl takes about .* there are 20.0; set rl.per_device.*, gradient_checkpointing to .* and use_vllm to"),
        (
            80,
            {"sft": WHOLE},
            "sft takes about 130.6 .* there are 80.0; set sft.method to lora, or take a smaller model",
        ),
        (6, WITHOUT_VLLM, "rl takes about .* and there are 6.0; take a smaller model"),
        (
            16,
            WITHOUT_VLLM | {"model__quantization": "none"},
            "rl takes about .* and there are 16.0; set model.quantization to nf4, or take a smaller model",
        ),
        (16, {"sample": SAMPLE}, "sample takes about 17.0 .*; set answers.quantization to bitsandbytes, or take a sma"),
    ],
)
def test_a_road_that_does_not_fit_is_refused_with_what_would(size, overrides, sentence, breeze):
    """Weights in 4 bits take 4.6 GiB and those of the reward model 4.1; vLLM's are 13.9, in its room of 3."""
    with pytest.raises(InputError, match=sentence) as refused:
        check(long_road(**overrides), breeze, Texts(103, 70, True), ROOMY._replace(gpu=size * GIB))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("stage", ["sft", "reward", "rl"])
@pytest.mark.parametrize("size", [11, 16, 30, 60])
def test_what_is_suggested_is_valid_and_fits(stage, size, breeze):
    chosen, texts, here = long_road(), Texts(103, 70, True), ROOMY._replace(gpu=size * GIB)
    changes = suggestion(stage, chosen, breeze, texts, here)
    assert changes
    fitting = Params.model_validate(changed(chosen, changes).model_dump())
    assert needs(fitting, breeze, texts, ROOMY)[stage].gpu <= size * GIB


def test_a_fine_tuning_and_dpo_get_one_batch_that_fits_both(breeze):
    """8 rows of 512 tokens of plain text take more than the 16 rows of 103 of the pairs, 5.812 MB a token.

    22.2 GiB and 8.9, beside 4.6 of weights, 0.4 of an adapter (0.5 with a copy) and torch's 0.6.
    """
    chosen = long_road(align__method="dpo", sft__plain_text=OWN_TEXT, answers__quantization="bitsandbytes")
    with pytest.raises(InputError) as refused:
        check(chosen, breeze, Texts(103, 70, True), ROOMY._replace(gpu=12 * GIB))
    sft, its_advice, train, the_same = str(refused.value).split("; ")
    assert sft.startswith("sft takes about 27.8 GiB")
    assert train.startswith("train takes about 14.6 GiB")
    assert its_advice == the_same


def test_a_disk_without_room_for_the_weights_of_vllm_is_refused(breeze):
    """7.487 B weights in bf16 are 13.9 GiB, and the adapter in fp32 0.1."""
    with pytest.raises(
        InputError, match=r"rl takes about 14.0 GiB of disk and there are 10.0; make room, or set rl.use"
    ):
        check(long_road(), breeze, TEXTS, ROOMY._replace(disk=10 * GIB))


def test_without_a_limit_the_largest_batch_is_suggested(breeze):
    """`rl` may compute all 32 answers of a step at once; a larger batch of `reward` would change the result."""
    changes = [suggestion(stage, long_road(), breeze, TEXTS, ROOMY) for stage in ("reward", "rl")]
    assert changes == [
        {"reward.per_device_train_batch_size": 8, "reward.gradient_checkpointing": False},
        {"rl.per_device_train_batch_size": 32, "rl.gradient_checkpointing": False},
    ]


def test_4_bit_weights_are_no_advice_on_a_cpu(breeze):
    """They are dequantised there, so that they take no less."""
    chosen = changed(on_a_cpu(long_road(sft=None)), {"model.quantization": "none"})
    with pytest.raises(InputError, match=r"^reward takes about .* there are 10.0; take a smaller model; rl takes"):
        check(chosen, breeze, TEXTS, Here(0, 10 * GIB, 1e15))


def test_the_preflight_on_a_cpu_refuses_a_road_that_cannot_fit(breeze, monkeypatch):
    """With vLLM, three whole models are in memory. Without it, policy and reward model take 13.9 GiB each.

    The reward model has no head of 0.5, a process with torch takes 3.6, and the adapters take 0.9 with their moments.
    4 rows at a time take 1.9.
    """
    monkeypatch.setattr("stance.preflight.footprint.available", lambda device: Here(0, 40 * GIB, 1e15))
    texts = Texts(answered=62, asked=55, chinese=True)
    [memory, disk] = check_fit(on_a_cpu(long_road()), breeze, texts)
    assert (memory.check, memory.verdict, disk.verdict) == ("host memory", "fails", "ok")
    assert memory.found.startswith("rl takes about ")
    assert "and use_vllm to false" in memory.expected
    lighter = changed(on_a_cpu(long_road()), {"rl.use_vllm": False, "rl.per_device_train_batch_size": 4})
    [memory, disk] = check_fit(lighter, breeze, texts)
    assert (memory.verdict, memory.expected) == ("ok", "about 33.8 GiB for rl")


def test_the_preflight_of_a_whole_run_states_the_road(tiny_model, monkeypatch, tmp_path):
    """The tiny model itself is a few bytes. 3 GiB for a process and 0.6 for torch, and 1 to merge in."""
    monkeypatch.setattr("stance.preflight.footprint.available", lambda device: Here(0, 2 * GIB, 1e15))
    road = compose("miniature-rlhf")
    chosen = small_run(tiny_model)
    values = chosen.model_dump(mode="json") | {name: road[name] for name in ("align", "sft", "reward", "rl")}
    rows = {row.check: row for row in check_model(Params.parse(values, "test"), [], tmp_path)}
    for stage in ("sft takes about 3.6", "reward takes about 3.6", "rl takes about 3.6", "merge takes about 4.6"):
        assert f"{stage} GiB of host memory and there are 2.0" in str(rows["host memory"].error)
