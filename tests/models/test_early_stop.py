"""The early stop at `train.max_drift`: real trainings of a tiny model, which drift as far as their learning rate."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerControl, TrainerState, TrainingArguments

from stance.config.params import Params
from stance.config.profiles import compose
from stance.data.chat import load_tokenizer
from stance.data.preferences import RetainedPair, Turn, write_pairs
from stance.data.training import Watchdog
from stance.errors import InputError
from stance.machine.files import write_jsonl
from stance.training.early_stop import PROMPTS, EarlyStopCallback, mean_drift, read_untrained, without_dropout
from stance.training.retaining import divergence
from tests.builders.small_run import params, prepare, train_in

TEXTS = [([5, 6, 7], [8, 9]), ([5, 6], [7, 8, 9, 10]), ([9], [5])]
UNRELATED = {1: "水幾度沸騰？", 2: "一年有幾天？", 3: "貓會飛嗎？"}
FAST = 0.05
"""A learning rate with which this model drifts far within a few steps."""


def answer(ident: int, response: str = "一百。") -> dict[str, Any]:
    return {
        "id": ident, "prompt": UNRELATED.get(ident, "?"), "response": response, "tokens": 4, "finish_reason": "stop"
    }  # fmt: skip


def settings(model: Path, **overrides: Any) -> Params:
    """Return the small run with four epochs of two steps, and a checkpoint after every second step."""
    bounds = compose("smollm2-135m")["evaluate"]["side_effects"]
    others = {"dataset__side_effects": "data/sources/side_effects/zh_Hant", "evaluate__side_effects": bounds}
    return params(model, train__num_epoch=4, **others, **overrides)


@pytest.fixture
def root(tiny_model: Path, tmp_path: Path) -> Path:
    """A folder in which everything up to the training has run, with the base model's answers to unrelated prompts."""
    prepare(tmp_path, settings(tiny_model))
    write_jsonl(tmp_path / "answered/retained.jsonl", [answer(ident) for ident in UNRELATED])
    return tmp_path


def watchdog(root: Path, name: str) -> Watchdog:
    return Watchdog.read(root / f"{name}-log/watchdog.json")


def test_a_training_that_drifts_is_stopped_and_its_checkpoint_before_is_kept(
    root: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "stance.training.preference_training.shutil.rmtree", lambda *arguments, **options: None
    )  # leaves the checkpoints
    train_in(root, settings(tiny_model, train__learning_rate=FAST, train__max_drift=1e6), "free")
    free = watchdog(root, "free").early_stop
    assert free is not None
    assert [row.step for row in free.measured] == [2, 4, 6, 8]
    assert free.kept is None
    drifts = [row.drift for row in free.measured]
    assert drifts[1] > drifts[0] > 0

    bound = (drifts[0] + drifts[1]) / 2
    adapter = train_in(root, settings(tiny_model, train__learning_rate=FAST, train__max_drift=bound), "stopped")
    record = watchdog(root, "stopped")
    assert (record.reason, record.steps) == (None, 8)
    assert record.early_stop is not None
    assert record.early_stop.kept == 2
    assert record.early_stop.measured == free.measured[:2]
    saved = list(root.glob("checkpoints/*/checkpoint-2/adapter_model.safetensors"))
    assert len(saved) == 2  # one of each training
    kept = load_file(adapter / "adapter_model.safetensors")
    for before in map(load_file, saved):
        assert before.keys() == kept.keys()
        assert all(torch.equal(weight, kept[name]) for name, weight in before.items())
    logged = (root / "stopped-log/log.csv").read_text(encoding="utf-8").splitlines()
    assert logged == (root / "free-log/log.csv").read_text(encoding="utf-8").splitlines()[:3]
    metrics = json.loads((root / "stopped-log/metrics.json").read_text(encoding="utf-8"))
    assert metrics["step"] == 2
    assert metrics["drift"] == drifts[0]


def test_a_training_within_its_bound_gives_the_adapter_of_one_without_a_bound(root: Path, tiny_model: Path):
    free = train_in(root, settings(tiny_model, train__lora_dropout=0.1), "free")
    bound = train_in(root, settings(tiny_model, train__lora_dropout=0.1, train__max_drift=1e6), "bound")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (free / name).read_bytes() == (bound / name).read_bytes()
    assert (root / "free-log/log.csv").read_bytes() == (root / "bound-log/log.csv").read_bytes()
    assert "early_stop" not in json.loads((root / "free-log/watchdog.json").read_text(encoding="utf-8"))


def test_a_first_checkpoint_above_the_bound_leaves_nothing_to_keep(root: Path, tiny_model: Path):
    with pytest.raises(InputError, match=r"at step 2, the first checkpoint, .* lower train\.save_steps"):
        train_in(root, settings(tiny_model, train__learning_rate=FAST, train__max_drift=1e-9))


def test_a_resumed_training_goes_back_to_the_checkpoint_that_it_began_with(policy: PeftModel, tmp_path: Path):
    state, control = TrainerState(global_step=4, max_steps=8, log_history=[]), TrainerControl()
    args = TrainingArguments(output_dir=str(tmp_path), save_steps=2, use_cpu=True)
    Watchdog(reason=None, step=None, steps=8).write(tmp_path / "watchdog.json")
    callback = EarlyStopCallback(TEXTS, 1e-9, 2, tmp_path)
    callback.on_train_begin(args, state, control, model=policy)
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.1 if weight.requires_grad else 0)
    state.global_step = 5
    callback.on_step_end(args, state, control, model=policy)  # no checkpoint is due
    assert not control.should_training_stop
    state.global_step = 6
    callback.on_step_end(args, state, control, model=policy)
    assert control.should_training_stop
    assert not control.should_save
    assert all(torch.equal(weight, before[name]) for name, weight in policy.named_parameters())
    callback.on_train_end(args, state, control, model=policy)
    record = Watchdog.read(tmp_path / "watchdog.json").early_stop
    assert record is not None
    assert record.kept == 4
    assert [row.step for row in record.measured] == [6]


def test_a_drift_that_is_no_number_is_above_every_bound(policy: PeftModel, tmp_path: Path):
    state, control = TrainerState(global_step=2, max_steps=8, log_history=[]), TrainerControl()
    args = TrainingArguments(output_dir=str(tmp_path), save_steps=2, use_cpu=True)
    callback = EarlyStopCallback(TEXTS, 1e6, 2, tmp_path)
    callback.on_train_begin(args, state, control, model=policy)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(float("nan") if weight.requires_grad else 1)
    state.global_step = 4
    callback.on_step_end(args, state, control, model=policy)
    assert control.should_training_stop


def retain(root: Path, *idents: int) -> None:
    rows = [
        RetainedPair(
            id=ident,
            prompt=[Turn(role="user", content=UNRELATED[ident])],
            chosen=[Turn(role="assistant", content="一百。")],
            rejected=[Turn(role="assistant", content="會大不如前。")],
        )
        for ident in idents
    ]
    write_pairs(root / "pairs/retained.jsonl", rows)


def test_only_prompts_that_are_not_trained_on_are_read(root: Path, tiny_model: Path):
    tokenizer = load_tokenizer(tiny_model)
    retain(root, 1, 3)
    [(prompt, _)] = read_untrained(root / "answered", root / "pairs", tokenizer, "回覆請少於20字")
    assert UNRELATED[2] in tokenizer.decode(prompt)
    retain(root, 1, 2, 3)
    with pytest.raises(InputError, match=r"all 3 answers in .*retained\.jsonl are; lower pairs\.retained"):
        read_untrained(root / "answered", root / "pairs", tokenizer, "回覆請少於20字")


def test_many_and_long_answers_are_cut_and_empty_ones_left_out(root: Path, tiny_model: Path):
    rows = [answer(0, ""), *(answer(ident, "很" * 99) for ident in range(1, PROMPTS + 9))]
    write_jsonl(root / "answered/retained.jsonl", rows)
    texts = read_untrained(root / "answered", root / "pairs", load_tokenizer(tiny_model), "回覆請少於20字")
    assert len(texts) == PROMPTS
    assert {len(words) for _, words in texts} == {24}


@pytest.fixture
def policy(tiny_model: Path) -> PeftModel:
    """A policy that differs from its base, in train mode, with dropout."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(str(tiny_model), dtype=torch.float32)
    chosen = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    adapted = get_peft_model(base, chosen).train()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return adapted


def test_the_drift_is_a_mean_over_tokens_whatever_the_batches_are(policy: PeftModel):
    with torch.no_grad(), without_dropout(policy):
        expected = float(divergence(policy, TEXTS))
    assert mean_drift(policy, TEXTS, 2) == pytest.approx(expected, rel=1e-3)
    assert mean_drift(policy, TEXTS, 9) == pytest.approx(expected, rel=1e-3)


def test_measuring_draws_no_random_number_and_leaves_train_mode_on(policy: PeftModel):
    before = torch.get_rng_state()
    mean_drift(policy, TEXTS, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(layer.training for layer in policy.modules())
