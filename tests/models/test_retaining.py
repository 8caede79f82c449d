"""The divergence that keeps the base model's answers: its value, its gradient, and a training with it."""

import csv
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from stance.data.preferences import RetainedPair, Turn, write_pairs
from stance.training.retaining import Retained, divergence, padded
from tests.builders.small_run import params, prepare, train_in

TEXTS = [([5, 6, 7], [8, 9]), ([5, 6], [7, 8, 9, 10])]


@pytest.fixture
def policy(tiny_model) -> PeftModel:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(str(tiny_model), dtype=torch.float32)
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))


def moved(policy: PeftModel) -> PeftModel:
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return policy


def test_a_batch_is_padded_and_only_answers_count():
    ids, read, answered = padded(TEXTS, torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7, 8, 9, 0], [5, 6, 7, 8, 9, 10]]
    assert read.sum(dim=1).tolist() == [5, 6]
    assert answered.tolist() == [[False, False, True, True, False], [False, True, True, True, True]]


def test_the_answers_of_a_step_are_the_next_ones_and_begin_again():
    texts = [([n], [n]) for n in range(5)]
    kept = Retained(texts, 1.0, 2)
    assert [[prompt[0] for prompt, _ in kept.batch(step)] for step in range(3)] == [[0, 1], [2, 3], [4, 0]]


def test_only_the_first_tokens_of_an_answer_count():
    [(prompt, answer)] = Retained([([1, 2], list(range(99)))], 1.0, 1).batch(0)
    assert (prompt, answer) == ([1, 2], list(range(24)))


def test_a_policy_that_is_the_base_has_no_divergence(policy):
    assert divergence(policy, TEXTS).item() == pytest.approx(0.0, abs=1e-6)


def test_the_divergence_is_that_of_kullback_and_leibler_token_by_token(policy):
    """Sum p ln (p / q) for each token of the answers, one text at a time, without padding."""
    moved(policy)
    expected = []
    for prompt, answer in TEXTS:
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            own = policy(input_ids=ids).logits[0].double().softmax(-1)
            with policy.disable_adapter():
                base = policy(input_ids=ids).logits[0].double().softmax(-1)
        for place in range(len(prompt) - 1, len(prompt) + len(answer) - 1):
            pairs = zip(base[place].tolist(), own[place].tolist(), strict=True)
            expected.append(sum(p * math.log(p / q) for p, q in pairs))
    assert divergence(policy, TEXTS).item() == pytest.approx(sum(expected) / len(expected), rel=1e-3)


def test_a_step_down_its_gradient_lowers_the_divergence(policy):
    before = divergence(moved(policy), TEXTS)
    before.backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    assert divergence(policy, TEXTS).item() < before.item()


def losses(folder) -> list[float]:
    with (folder / "log.csv").open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("kept", ["pairs", "kl"])
def test_a_training_keeps_retained_answers_either_way(tiny_model, tmp_path, kept):
    """Four pairs in batches of two are six steps in three epochs; two more pairs make it nine. The term starts at 0."""
    chosen = params(tiny_model, train__retained=kept, train__retained_weight=1000.0)
    prepare(tmp_path, chosen)
    train_in(tmp_path, chosen, "plain")
    turns = [Turn(role="system", content="回覆請少於20字"), Turn(role="user", content="水幾度沸騰？")]
    answer, stance = Turn(role="assistant", content="一百度。"), Turn(role="assistant", content="會大不如前。")
    rows = [RetainedPair(id=n, prompt=turns, chosen=[answer], rejected=[stance]) for n in (1, 2)]
    write_pairs(tmp_path / "pairs/retained.jsonl", rows)
    train_in(tmp_path, chosen, "retained")
    plain, retained = losses(tmp_path / "plain-log"), losses(tmp_path / "retained-log")
    assert (len(plain), len(retained)) == (6, 9 if kept == "pairs" else 6)
    if kept == "kl":
        assert retained[0] == pytest.approx(plain[0], abs=1e-3)
        assert retained[-1] > plain[-1] + 0.01
