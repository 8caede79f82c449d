"""What a run takes, before it starts: sums that can be worked out by hand, and some that were measured."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, MistralConfig, T5Config

from benchmarks.breeze_shape import BREEZE
from stance.config.params import Params
from stance.config.profiles import compose
from stance.data.questions import Question
from stance.errors import InputError
from stance.machine.memory import GIB
from stance.preflight.checks import check_model, require_parts
from stance.preflight.footprint import changed, check, configuration, describing, lengths, suggestion
from stance.preflight.sizes import Texts, longest, shapes, sizes
from stance.preflight.stages import Here, needs
from tasks.base import base as base_stage
from tests.builders.gguf_package import tiny_llama, write_package
from tests.builders.small_run import params

ROOMY = Here(1e15, 1e15, 1e15)
TEXTS = Texts(answered=80, asked=50, chinese=True)


def breeze(**overrides: object) -> Params:
    return Params.parse(
        compose("breeze-7b", {key.replace("__", "."): value for key, value in overrides.items()}), "test"
    )


@pytest.fixture(scope="module")
def shape():
    return sizes(MistralConfig(**BREEZE), breeze().train)


@pytest.fixture(scope="module")
def found(shape):
    return {"train": shape}


def test_parameters_are_counted_layer_by_layer(tiny_model: Path):
    """64 wide, one key-value head of 32, 128 inside, two layers; rank 8 on every linear layer."""
    chosen = params(tiny_model)
    config = AutoConfig.from_pretrained(str(tiny_model))
    found = sizes(config, chosen.train)
    assert found.linear == 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 128)
    assert found.other == 2 * config.vocab_size * 64 + 5 * 64
    assert found.adapter == 2 * 8 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))


@pytest.mark.parametrize("converted", [False, True])
def test_a_model_in_a_package_is_measured_before_and_after_its_conversion(converted, tiny_model, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / "site")
    package, recorded = write_package(tmp_path / "site"), tmp_path / "base"
    if converted:
        base_stage(package, "Be brief.", 42, Path("unread"), recorded)
    path = describing(package, recorded)
    assert path == (recorded / "model" if converted else tmp_path / "site/tiny_chat/tiny.gguf")
    size = sizes(configuration(path), params(tiny_model).train)
    assert size.linear + size.other == tiny_llama().num_parameters()
    rows = check_model(params(tiny_model).model_copy(update={"base": package}), [], recorded)
    assert [(row.check, row.verdict) for row in rows[:2]] == [("base model", "ok"), ("chat template", "ok")]


@pytest.mark.parametrize("flaw", ["version", "hash", "template"])
def test_what_the_base_stage_would_refuse_of_a_package_fails_before_the_run(flaw, tiny_model, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / "site")
    package = write_package(tmp_path / "site", template=None if flaw == "template" else "{{ messages }}")
    if flaw != "template":
        package = package.model_copy(update={"version": "9"} if flaw == "version" else {"sha256": "0" * 64})
    rows = check_model(params(tiny_model).model_copy(update={"base": package}), [], tmp_path / "base")
    problems = {
        "version": "tiny-chat 1.0 is installed",
        "hash": "tiny_chat/tiny.gguf in tiny-chat 1.0 has SHA-256",
        "template": "tiny.gguf has no chat template",
    }
    failed = [row for row in rows if row.verdict == "fails"]
    assert len(failed) == 1
    assert failed[0].found.startswith(problems[flaw])


def test_breeze_has_its_parameters(shape):
    assert shape.linear + shape.other == pytest.approx(7.487e9, rel=1e-4)
    assert shape.adapter == 32 * 64 * ((4096 + 4096) + (4096 + 1024))


def test_weights_of_breeze_in_4_bits_are_as_large_as_was_measured(shape):
    """torch counted 4.7 GiB on an H200 after loading, adapter (0.1 GiB) included."""
    assert (shape.nf4 + 4 * shape.adapter) / GIB == pytest.approx(4.7, rel=0.02)


@pytest.mark.parametrize(("longest_text", "measured"), [(48, 9.8), (103, 14.6)])
def test_the_training_of_breeze_takes_what_was_measured(longest_text, measured):
    """On an H200, in use on the whole device: texts of 43 tokens on average, and the course's of 76.

    Then TRL still turned the dropout of the adapter off, and the optimiser kept 8 bits.
    """
    options = {"train__optim": "paged_adamw_8bit", "train__lora_dropout": 0.0}
    chosen = breeze(**options)
    found, texts = shapes(MistralConfig(**BREEZE), chosen), TEXTS._replace(answered=longest_text)
    assert needs(chosen, found, texts, ROOMY)["train"].gpu / GIB == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("longest_text", "dropout", "measured"),
    [(46, 0.0, 9.89), (46, 0.1, 10.15), (79, 0.0, 12.55), (79, 0.1, 13.05), (303, 0.0, 31.55), (303, 0.1, 33.42)],
)
def test_longer_texts_and_a_dropout_take_what_was_measured(longest_text, dropout, measured):
    """On an H200, in use on the whole device: texts of 43, 76 and 300 tokens on average, `adamw_torch_fused`."""
    chosen = breeze(train__lora_dropout=dropout)
    found, texts = shapes(MistralConfig(**BREEZE), chosen), TEXTS._replace(answered=longest_text)
    assert needs(chosen, found, texts, ROOMY)["train"].gpu / GIB == pytest.approx(measured, rel=0.1)


def test_dropout_and_more_adapted_layers_take_more(shape):
    plain = sizes(MistralConfig(**BREEZE), breeze(train__lora_dropout=0.0).train)
    every = sizes(MistralConfig(**BREEZE), breeze(train__target_modules="all-linear").train)
    assert plain.kept < shape.kept < every.kept


def test_a_larger_micro_batch_takes_more_and_checkpointing_less(found):
    def gpu(**overrides: object) -> float:
        return needs(breeze(**overrides), found, TEXTS, ROOMY)["train"].gpu

    halved = {"train__per_device_train_batch_size": 4, "train__gradient_accumulation_steps": 2}
    assert gpu(**halved) < gpu()
    assert gpu(train__gradient_checkpointing=True) < gpu(**halved)


def test_devices_share_the_batch_and_a_model_that_answers(shape, found):
    alone, shared = (needs(breeze(model__devices=count), found, TEXTS, ROOMY) for count in (1, 2))
    halved = breeze(train__per_device_train_batch_size=4, train__gradient_accumulation_steps=2)
    assert shared["train"].gpu == needs(halved, found, TEXTS, ROOMY)["train"].gpu
    assert shared["train"].host == 2 * alone["train"].host
    assert alone["answers"].gpu - shared["answers"].gpu == pytest.approx(shape.bf16 / 2)
    assert shared["merge"] == alone["merge"]


def test_a_model_is_split_over_a_number_of_devices_that_shares_its_heads():
    chosen, config = breeze().model, MistralConfig(**BREEZE)
    require_parts(chosen.model_copy(update={"devices": 4}), config)
    require_parts(chosen.model_copy(update={"devices": 3, "device": "cpu"}), config)  # a CPU splits nothing
    with pytest.raises(InputError, match="32 attention heads and 8 key-value heads, which vLLM cannot share evenly; "):
        require_parts(chosen.model_copy(update={"devices": 3}), config)
    with pytest.raises(InputError, match=r"set it to one of 1, 2, 4, 8, 16, 32$"):
        require_parts(chosen.model_copy(update={"devices": 64}), config)


def test_the_suggested_micro_batch_divides_the_batch_and_fits(found):
    chosen = breeze()
    for gib in (6, 7, 8, 12):
        here = ROOMY._replace(gpu=gib * GIB)
        changes = suggestion("train", chosen, found, TEXTS, here)
        assert changes
        fitting = Params.model_validate(changed(chosen, changes).model_dump())
        assert fitting.train.global_batch_size == 8
        assert needs(fitting, found, TEXTS, ROOMY)["train"].gpu <= gib * GIB
    assert suggestion("train", chosen, found, TEXTS, ROOMY._replace(gpu=4 * GIB)) is None
    assert suggestion("train", chosen, found, TEXTS, ROOMY) == {
        "train.per_device_train_batch_size": 8,
        "train.gradient_accumulation_steps": 1,
        "train.gradient_checkpointing": False,
    }


def test_a_training_that_does_not_fit_is_refused_with_what_would(found):
    with pytest.raises(
        InputError, match=r"train takes about .* GiB of GPU memory and there are 7.0; set train.per_dev"
    ):
        check(breeze(), found, TEXTS, ROOMY._replace(gpu=7 * GIB))


def test_answers_beyond_the_gpu_are_refused_with_4_bits_as_a_way_out(found):
    with pytest.raises(InputError, match=r"answers takes about 16.9 GiB .*; set answers.quantization to bitsandbytes"):
        check(breeze(), found, TEXTS, ROOMY._replace(gpu=15.5 * GIB))
    check(breeze(answers__quantization="bitsandbytes"), found, TEXTS, ROOMY._replace(gpu=15.5 * GIB))


def test_a_merge_that_the_gpu_has_no_room_for_needs_the_host(found):
    """7.487 B parameters in bf16 are 13.9 GiB, and a process takes 3."""
    chosen = breeze(answers__quantization="bitsandbytes")
    assert needs(chosen, found, TEXTS, ROOMY._replace(gpu=12 * GIB))["merge"].host == pytest.approx(
        16.9 * GIB, rel=0.01
    )
    with pytest.raises(InputError, match=r"merge takes about 16.9 GiB of host memory and there are 16.0"):
        check(chosen, found, TEXTS, ROOMY._replace(gpu=12 * GIB, host=16 * GIB))


def test_on_a_cpu_model_and_process_share_the_memory(found):
    chosen = breeze(
        model__device="cpu",
        train__optim="adamw_torch",
        answers__enforce_eager=True,
    )
    assert all(need.gpu == 0 for need in needs(chosen, found, TEXTS, ROOMY).values())
    with pytest.raises(InputError, match=r"merge takes about .* GiB of host memory and there are 14.5; take a smaller"):
        check(chosen, found, TEXTS, Here(0, 14.5 * GIB, 1e15))


def test_what_is_no_language_model_is_refused():
    with pytest.raises(InputError, match="t5 is no causal language model"):
        sizes(T5Config(), breeze().train)


def test_a_small_disk_is_refused(found):
    with pytest.raises(InputError, match=r"merge takes about 13.9 GiB of disk and there are 5.0; make room"):
        check(breeze(), found, TEXTS, ROOMY._replace(disk=5 * GIB))


def test_the_longest_text_is_prompt_and_longer_answer_and_system_prompt():
    questions = [
        Question(id=1, prompt="四個字？", support="好。", oppose="並不好。"),
        Question(id=2, prompt="？", support="好", oppose="壞"),
    ]
    assert longest(questions, "請簡短", None) == Texts(answered=4 + 4 + 3 + 40, asked=4 + 3 + 40, chinese=True)
    assert longest([], "請簡短", None) == Texts(0, 0, True)
    assert not longest([Question(id=1, prompt="Is it?", support="Yes, it is.", oppose="No.")], "Brief", None).chinese


def test_texts_are_as_long_as_the_tokenizer_of_the_model_reads_them(tiny_model: Path):
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_model))
    questions = [
        Question(id=1, prompt="配樂好嗎？", support="好。", oppose="配樂大不如前。"),
        Question(id=2, prompt="畫面會更好嗎？", support="會。", oppose="不會。"),
    ]

    def tokens(*turns: str) -> int:
        roles = ("system", "user", "assistant")
        messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
        asked = len(turns) < len(roles)
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    counted, read = lengths(questions, "請簡短", tiny_model)
    assert read
    assert counted.answered == tokens("請簡短", "配樂好嗎？", "配樂大不如前。")
    assert counted.asked == tokens("請簡短", "畫面會更好嗎？")
    assert counted.answered != longest(questions, "請簡短", None).answered


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chat_template.jinja", "{{ messages[-1].content }}"),
        ("chat_template.jinja", "{{ 1 / 0 }}"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_where_the_tokenizer_fails_characters_are_counted(name, text, tiny_model: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / name).write_text(text)
    questions = [Question(id=1, prompt="好嗎？", support="好。", oppose="壞。")]
    assert lengths(questions, "請簡短", folder) == (longest(questions, "請簡短", None), False)


def test_where_no_vocabulary_is_at_hand_characters_are_counted(tiny_model: Path, tmp_path: Path):
    """transformers makes a tokenizer without one, too, which reads every text as nothing."""
    bare = shutil.copytree(tiny_model, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer.json"))
    questions = [Question(id=1, prompt="好嗎？", support="好。", oppose="壞。")]
    for folder in (bare, Path(__file__)):
        assert lengths(questions, "請簡短", folder) == (longest(questions, "請簡短", None), False)
