"""Reinforcement learning of a tiny model: what rises, what the reference is, and how the watchdog stops a hack."""

import csv
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Params4bit
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

from stance.config.road import Reward, Rl
from stance.data.chat import conversation, encode, fingerprint, load_tokenizer
from stance.data.comparisons import of_pairs
from stance.data.preferences import read_pairs
from stance.data.questions import read_questions
from stance.data.reinforcement import Reinforcement
from stance.data.rewards import RewardedText, write_rewards
from stance.errors import InputError
from stance.evaluation.classifier import StanceClassifier
from stance.evaluation.reinforcement import asked, measured_by, record_of, rewards_of, stance_values, wanted_stances
from stance.evaluation.ruler import judges
from stance.models.base import locate
from stance.models.loading import load
from stance.training.dpo import Dequantized, save_adapter
from stance.training.reward import answer_ids, load_reward_model, score, train_reward_model
from stance.training.rl import (
    Asked,
    Measured,
    Part,
    Reinforced,
    Ruler,
    Values,
    end_ids,
    reinforce,
    require_questions,
    reward_function,
)
from stance.training.ruler_watchdog import RulerWatchdog
from tasks.rl import rl
from tests.builders.small_run import QUESTIONS, params, prepare, sharpened
from tests.builders.taught import write_classifier

CORPORA = Path("data/sources/stance/corpus")
REWARD = Reward(
    source="preferences", min_kappa=0.6, min_shared_questions=20, held_out=0.3, num_epoch=4, learning_rate=5e-3,
    per_device_train_batch_size=6, max_length=256, margin_per_rank=0.0, center_rewards_coefficient=0.0,
    gradient_checkpointing=False, r=8, lora_alpha=16, target_modules="all-linear",
)  # fmt: skip
PROMPTS = [Asked(question["id"], conversation("回覆請少於20字", question["prompt"])) for question in QUESTIONS]


def options(**changes: Any) -> Rl:
    values = {
        "use_vllm": False,
        "algorithm": "rloo",
        "max_steps": 12,
        "num_generations": 16,
        "prompts_per_step": 2,
        "per_device_train_batch_size": 32,
        "max_completion_length": 12,
        "temperature": 1.0,
        "beta": 0.01,
        "learning_rate": 1e-2,
        "reward_model_weight": 1.0,
        "stance_judge_weight": 0.0,
        "cut_off_penalty": 0.0,
        "window": 3,
        "max_ruler_fall": 2.0,
        "gradient_checkpointing": False,
        "r": 8,
        "lora_alpha": 16,
        "target_modules": "all-linear",
    }
    return Rl.model_validate(values | changes)


def digits(questions: Any, answers: Any) -> list[float]:
    """The share of digits in an answer: about 0.02 of what a random model writes."""
    return [sum(map(str.isdigit, answer)) / max(len(answer), 1) for answer in answers]


def variety(questions: Any, answers: Any) -> list[Measured]:
    """The share of an answer's characters that are different; it knows nothing of digits."""
    values = [len(set(answer)) / max(len(answer), 1) for answer in answers]
    return [Measured(value, value > 0.5) for value in values]


def train(sharp_model: Path, folder: Path, values: Values = digits, ruler: Ruler = variety, start: Path | None = None,
          quantization: str = "none", questions: list[Asked] = PROMPTS, **changes: Any) -> Reinforced:  # fmt: skip
    chosen = params(sharp_model, model__quantization=quantization)
    parts = [Part("planted", 1.0, values)]
    tokenizer = load_tokenizer(sharp_model)
    inputs = (sharp_model, start, tokenizer, questions, parts, ruler, chosen.model, options(**changes))
    return reinforce(*inputs, 1, folder / "log.csv")


def curves(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def sharp_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharpened(tiny_model, tmp_path_factory.mktemp("sharp"))


@pytest.fixture(scope="module")
def run(sharp_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Reinforced, Path]:
    folder = tmp_path_factory.mktemp("rl")
    return train(sharp_model, folder), folder


def test_the_reward_rises(run: tuple[Reinforced, Path]):
    rewards = [row["reward"] for row in run[0].rows]
    assert len(rewards) == 12
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.3
    assert run[0].reason is None
    assert run[0].kept_step == 12


def test_the_curves_have_reward_ruler_kl_entropy_and_length_of_every_step(run: tuple[Reinforced, Path]):
    rows = curves(run[1] / "log.csv")
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert {"reward", "ruler", "stance_share", "kl", "entropy", "length", "cut_off", "planted"} <= rows[0].keys()
    for row in rows:
        assert float(row["reward"]) == pytest.approx(float(row["planted"]))
        assert 0 <= float(row["ruler"]) <= 1
        assert 0 < float(row["length"]) <= 12


def test_the_policy_begins_as_its_reference_and_leaves_it(run: tuple[Reinforced, Path]):
    kl = [row["kl"] for row in run[0].rows]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 0.05


def test_the_policy_becomes_surer(run: tuple[Reinforced, Path]):
    """At first its entropy is below that of a uniform choice among all tokens, ln 312 = 5.74."""
    entropy = [row["entropy"] for row in run[0].rows]
    assert 3 < entropy[0] < 5.74
    assert entropy[-1] < entropy[0] / 2


def test_a_hack_is_caught_and_the_last_good_adapter_is_kept(sharp_model: Path, tmp_path: Path):
    """The reward likes digits, so the answers become digits; the ruler, which only counts variety, falls."""
    hacked = train(sharp_model, tmp_path, max_ruler_fall=0.15, max_steps=30)
    assert "the reward has risen from" in hacked.reason
    assert "the independent ruler has fallen" in hacked.reason
    assert hacked.stopped_at < 30
    assert len(hacked.rows) == hacked.stopped_at
    assert hacked.kept_step < hacked.stopped_at - 1
    windows = [sum(row["ruler"] for row in hacked.rows[n - 2 : n + 1]) / 3 for n in range(2, len(hacked.rows))]
    best = windows.index(max(windows)) + 2  # the place of the best stretch's last row
    assert hacked.kept_step == best
    record = record_of(hacked, [Part("planted", 1.0, digits)], "variety", options())
    assert record.kept.ruler == pytest.approx(max(windows))
    assert record.last.reward > record.kept.reward
    record.write(tmp_path / "rl.json")
    assert Reinforcement.read(tmp_path / "rl.json") == record


def test_a_policy_that_falls_apart_stops_with_a_reason_and_the_last_good_adapter_is_kept(sharp_model, tmp_path):
    """A first step of 1e30 makes logits that are no numbers, from which torch draws nothing: on a GPU it asserts."""
    broken = train(sharp_model, tmp_path, learning_rate=1e30, max_steps=4)
    assert (broken.reason, broken.stopped_at, broken.kept_step) == ("loss is nan", 2, 0)
    weights = {name: weight for name, weight in broken.policy.named_parameters() if "lora_B" in name}
    assert not any(weight.any() for weight in weights.values())  # as a new adapter begins
    for window in (1, 3):
        record_of(broken, [Part("planted", 1.0, digits)], "variety", options(window=window)).write(tmp_path / "rl.json")
        record = Reinforcement.read(tmp_path / "rl.json")
        assert record.reason == "loss is nan"
        assert record.first.kl == 0
        assert math.isnan(record.last.kl) is (window == 1)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_earlier_adapter_is_continued_and_is_the_reference(quantization: str, sharp_model: Path, tmp_path: Path):
    """At a learning rate that moves nothing, every step has the KL of a policy against itself, 0."""
    start = earlier_adapter(sharp_model, tmp_path / "start")
    trained = train(sharp_model, tmp_path, start=start, quantization=quantization, learning_rate=1e-12, max_steps=2)
    assert [row["kl"] for row in trained.rows] == pytest.approx([0, 0], abs=1e-6)
    trained.policy.save_pretrained(tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} <= {
        "adapter_config.json", "adapter_model.safetensors", "README.md"
    }  # fmt: skip
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (start, tmp_path / "adapter"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)


def earlier_adapter(sharp_model: Path, folder: Path) -> Path:
    """An adapter whose matrices B are not zero, so that it is not the base."""
    torch.manual_seed(0)
    policy = get_peft_model(
        load(sharp_model, "cpu"), LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear")
    )
    for name, value in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.05)
    policy.save_pretrained(folder)
    return folder


def test_4_bit_weights_are_dequantised_on_a_cpu(sharp_model: Path, tmp_path: Path):
    """bitsandbytes repacks 4-bit weights in an eval-mode forward pass, and gradients are wrong from then on."""
    trained = train(sharp_model, tmp_path, quantization="nf4", max_steps=3)
    layers = [module for module in trained.policy.modules() if isinstance(module, Dequantized)]
    assert len(layers) == 14  # seven linear layers in each of two blocks
    assert not any(isinstance(parameter, Params4bit) for parameter in trained.policy.parameters())


def test_grpo_trains_with_the_same_record(sharp_model: Path, tmp_path: Path):
    trained = train(sharp_model, tmp_path, algorithm="grpo", max_steps=5)
    rewards = [row["reward"] for row in trained.rows]
    assert rewards[-1] > rewards[0]
    assert trained.rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert {"reward", "ruler", "kl", "entropy", "length"} <= curves(tmp_path / "log.csv")[0].keys()


def test_smaller_batches_draw_the_same_first_answers(run: tuple[Reinforced, Path], sharp_model: Path, tmp_path: Path):
    split = train(sharp_model, tmp_path, per_device_train_batch_size=8, max_steps=1)
    assert split.rows[0]["reward"] == pytest.approx(run[0].rows[0]["reward"])
    assert split.rows[0]["entropy"] == pytest.approx(run[0].rows[0]["entropy"], abs=0.05)


def test_a_reward_is_the_weighted_sum_less_the_penalty_of_a_cut_off_answer():
    """2 x 0.5 + 10 x 1 = 11; the second answer does not end with token 9, so it loses 3: 2 x 1 + 10 x 0 - 3 = -1."""
    logged: dict[str, float] = {}
    parts = [Part("a", 2.0, lambda q, a: [0.5, 1.0]), Part("b", 10.0, lambda q, a: [float(row.id == 7) for row in q])]
    total = reward_function(parts, lambda q, a: [Measured(0.2, text == "yes") for text in a], 3.0, {9})
    completions = [[{"role": "assistant", "content": text}] for text in (" yes", "no")]
    inputs = {"prompts": [[], []], "completions": completions, "completion_ids": [[4, 9], [9, 4]], "id": [7, 8]}
    assert total(**inputs, log_metric=logged.__setitem__, trainer_state=None) == [11.0, -1.0]
    assert logged == {"ruler": pytest.approx(0.2), "ruler/share": 0.5, "part/a": 0.75, "part/b": 0.5}


def test_padding_does_not_count(sharp_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The logged entropy is the mean over the answers' tokens, each answer worked out alone, without padding.

    Prompts have different lengths, and some answers end early.
    """
    seen: dict[str, Any] = {}

    def recording(*arguments: Any) -> Any:
        total = reward_function(*arguments)

        def remember(**inputs: Any) -> list[float]:
            seen.update(inputs)
            return total(**inputs)

        return remember

    monkeypatch.setattr("stance.training.rl.reward_function", recording)
    questions = [Asked(1, conversation("短", "好？")), Asked(2, conversation("回覆請少於20字", "票房會更好嗎？" * 3))]
    trained = train(sharp_model, tmp_path, questions=questions, max_steps=1, num_generations=32,
                    per_device_train_batch_size=64, max_completion_length=24)  # fmt: skip
    tokenizer, model = load_tokenizer(sharp_model), load(sharp_model, "cpu").eval()
    entropies: list[float] = []
    for prompt, answer in zip(seen["prompts"], seen["completion_ids"], strict=True):
        ids = encode(tokenizer, prompt)
        with torch.inference_mode():
            logps = model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1].float().log_softmax(-1)
        entropies += (-(logps.exp() * logps).sum(-1)).tolist()
    lengths = [len(answer) for answer in seen["completion_ids"]]
    assert min(lengths) < max(lengths) == 24
    assert len(entropies) == sum(lengths)
    assert trained.rows[0]["entropy"] == pytest.approx(sum(entropies) / len(entropies), abs=0.02)
    assert trained.rows[0]["completions/mean_length"] == pytest.approx(sum(lengths) / len(lengths))


def test_every_end_of_the_model_ends_an_answer():
    ends = end_ids(
        SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[2, 5])), SimpleNamespace(eos_token_id=3)
    )
    assert ends == {2, 3, 5}
    none = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))
    assert end_ids(none, SimpleNamespace(eos_token_id=3)) == {3}


def watched(rows: list[tuple[float, float]], window: int = 2, max_fall: float = 0.1) -> RulerWatchdog:
    """The watchdog after steps with these rewards and rulers; the weight of the policy before step n is n."""
    model = torch.nn.Linear(1, 1, bias=False)
    state, control, watchdog = TrainerState(max_steps=9), TrainerControl(), RulerWatchdog(window, max_fall)
    for number, (reward, ruler) in enumerate(rows):
        torch.nn.init.constant_(model.weight, number)
        watchdog.on_step_begin(None, state, control, model=model)
        state.global_step = number + 1
        state.log_history.append({"loss": 0.0, "reward": reward, "ruler": ruler})
        watchdog.on_log(None, state, control)
        if control.should_training_stop:
            break
    return watchdog


def test_the_watchdog_keeps_the_policy_of_the_best_average():
    """Averages of two: (1, 0.5), (2, 0.6), (3, 0.45): the ruler falls by 0.15 while the reward rises from 2 to 3."""
    stopped = watched([(1, 0.4), (1, 0.6), (3, 0.6), (3, 0.3), (9, 0.9)])
    assert stopped.stopped_at == 4
    assert stopped.reason == (
        "the reward has risen from 2 to 3 and the independent ruler has fallen from 0.600 to 0.450, by more than 0.1"
    )
    assert stopped.kept.steps == 2  # the third step's answers are those of the policy after two steps
    assert stopped.kept.weights["weight"].item() == 2


@pytest.mark.parametrize(
    "rows",
    [
        [(1, 0.4), (1, 0.6), (3, 0.6), (3, 0.42)],  # 0.51, a fall of 0.09 from 0.6
        [(1, 0.4), (1, 0.6), (3, 0.6), (0, 0.1)],  # the reward falls too
        [(1, 0.9)],  # shorter than the average
        [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)],
    ],
)
def test_the_watchdog_is_silent_where_the_two_do_not_part(rows: list[tuple[float, float]]):
    assert watched(rows).reason is None


@pytest.mark.parametrize(("row", "reason"), [((math.nan, 0.5), "reward is nan"), ((1, math.inf), "ruler is inf")])
@pytest.mark.parametrize("sound", [0, 1, 3])
def test_a_figure_that_is_no_number_stops_and_the_last_sound_policy_is_kept(row, reason: str, sound: int):
    stopped = watched([(1, 0.5)] * sound + [row], window=9)
    assert stopped.reason == reason
    assert stopped.kept.steps == stopped.kept.weights["weight"].item() == max(sound - 1, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "grpo", "beta": 0.0}, "rl.beta is 0, so that grpo has no KL penalty and no reference"),
        ({"beta": 0.0}, "rl.beta is 0, so that rloo"),
        ({"reward_model_weight": 0.0}, "are both 0, so that there is no reward"),
        ({"per_device_train_batch_size": 5}, "but a step has 32 answers"),
        ({"use_vllm": True, "algorithm": "grpo"}, "rl.use_vllm is true and rl.algorithm is grpo"),
        ({"num_generations": 1}, "greater than or equal to 2"),
    ],
)
def test_wrong_parameters_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        options(**changes)


def test_more_questions_per_step_than_there_are_is_refused():
    with pytest.raises(InputError, match="rl.prompts_per_step is 8, and there are 6 questions; set it to at most 6"):
        require_questions(PROMPTS, options(prompts_per_step=8))


def pair(ident: int, preferred: str) -> Any:
    from stance.data.preferences import Pair

    turns = [{"role": "user", "content": f"{ident}?"}]
    against = "oppose" if preferred == "support" else "support"
    sides = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    return Pair.model_validate({"id": ident, "preferred": preferred, "against": against, "prompt": turns} | sides)


def test_a_question_is_asked_once_if_one_stance_is_wanted():
    pairs = [pair(1, "support"), pair(2, "oppose"), pair(2, "oppose"), pair(3, "support"), pair(3, "oppose")]
    assert wanted_stances(pairs) == {1: "support", 2: "oppose"}
    assert [question.id for question in asked(pairs, wanted_stances(pairs))] == [1, 2]
    with pytest.raises(InputError, match="prefer both stances of every question"):
        wanted_stances(pairs[3:])


@pytest.fixture(scope="module")
def root(sharp_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, its classifier, its pairs, and a reward model that learned them a little."""
    folder = tmp_path_factory.mktemp("stages")
    chosen = params(sharp_model, pairs__data_size=6, pairs__support_ratio=1.0)
    prepare(folder, chosen)
    write_classifier(folder / "dataset", folder / "classifier")
    tokenizer, base = load_tokenizer(sharp_model), locate(folder / "base")
    rows = of_pairs(read_pairs(folder / "pairs/train.jsonl"))
    log = folder / "reward/log.csv"
    trained = train_reward_model(base, tokenizer, rows, chosen.model, REWARD, 1, log)
    save_adapter(trained.model, folder / "reward/adapter")
    fingerprint(tokenizer).write(folder / "reward/fingerprint.json")
    texts = [answer_ids(tokenizer, row.prompt, row.chosen) for row in rows]
    rewards = score(trained.model, texts, tokenizer.pad_token_id)
    write_rewards(folder / "reward/scores.jsonl", [RewardedText(*row) for row in zip(texts, rewards, strict=True)])
    return folder


def stage(root: Path, sharp_model: Path, out: Path, start: Path = Path("none"), **changes: Any) -> Reinforcement:
    inputs = (
        root / "base", root / "dataset", CORPORA, root / "classifier", root / "pairs", start, root / "reward", out,
    )  # fmt: skip
    chosen = params(sharp_model)
    rl(chosen.model, options(**changes), chosen.answers, 1, *inputs)
    return Reinforcement.read(out / "rl.json")


def test_the_stage_trains_against_the_reward_model_with_the_judge_as_its_ruler(root, sharp_model, tmp_path):
    """The policy has 4-bit weights, dequantised; the reward model has those of the base."""
    record = stage(root, sharp_model, tmp_path, max_steps=4, prompts_per_step=1, num_generations=8,
                   per_device_train_batch_size=8)  # fmt: skip
    assert record.rewards == {"reward_model": 1.0}
    assert record.ruler == "stance judge by wording"
    assert (record.steps, record.step, record.reason, record.kept_step) == (4, None, None, 4)
    assert record.first_kl == pytest.approx(0, abs=1e-6)
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    rows = curves(tmp_path / "log.csv")
    assert float(rows[0]["reward"]) == pytest.approx(float(rows[0]["reward_model"]))
    again = stage(root, sharp_model, tmp_path / "again", max_steps=4, prompts_per_step=1, num_generations=8,
                  per_device_train_batch_size=8)  # fmt: skip
    assert again == record
    first, second = (load_file(out / "adapter/adapter_model.safetensors") for out in (tmp_path, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_reward_of_the_stage_is_that_of_the_saved_reward_model(root: Path, sharp_model: Path):
    chosen, tokenizer = params(sharp_model).model, load_tokenizer(sharp_model)
    model = load_reward_model(sharp_model, root / "reward/adapter", chosen, tokenizer.pad_token_id)
    values = rewards_of(model, tokenizer)
    expected = score(model, [answer_ids(tokenizer, PROMPTS[0].prompt, "好。")], tokenizer.pad_token_id)
    assert values(PROMPTS[:1], ["好。"]) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts_per_step": 8, "per_device_train_batch_size": 8}, "rl.prompts_per_step is 8, and there are 6"),
        ({"target_modules": ["gate_up_proj"]}, "rl.target_modules names gate_up_proj, which a mistral does not have"),
    ],
)
def test_wrong_input_is_refused_before_a_model_is_loaded(changes, message, root, sharp_model, tmp_path, monkeypatch):
    monkeypatch.setattr("stance.evaluation.reinforcement.load_reward_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(InputError, match=message):
        stage(root, sharp_model, tmp_path, **changes)


def test_a_reward_model_of_another_tokenizer_is_refused_before_it_is_loaded(root, sharp_model, tmp_path, monkeypatch):
    monkeypatch.setattr("stance.evaluation.reinforcement.load_reward_model", lambda *_: pytest.fail("loaded"))
    shutil.copytree(root / "reward", tmp_path / "reward")
    path = tmp_path / "reward/fingerprint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 5}), encoding="utf-8")
    for name in ("base", "dataset", "pairs"):
        shutil.copytree(root / name, tmp_path / name)
    with pytest.raises(InputError, match="the reward model reads conversations with another tokenizer or template"):
        stage(tmp_path, sharp_model, tmp_path / "out")


def test_where_the_judge_is_rewarded_the_ruler_is_another_one_taught_by_other_questions(root, monkeypatch):
    taught: list[list[str]] = []

    def fitted(reader, rows, corpus):
        taught.append([row.prompt for row in rows])
        return "ruler", []

    def fit(questions, *_):
        taught.append([row.prompt for row in questions])
        return SimpleNamespace(classifier="judge")

    monkeypatch.setattr("stance.evaluation.ruler.ModelReader", lambda *_: None)
    monkeypatch.setattr("stance.evaluation.ruler.HiddenStateClassifier", SimpleNamespace(fit=fitted))
    monkeypatch.setattr("stance.evaluation.ruler.fit", fit)
    questions = read_questions(root / "dataset")
    folders = (CORPORA, root / "classifier", root / "base")
    both = judges(questions, *folders, "cpu", rewarded=True)
    assert (both.rewarded, both.ruler) == ("judge", "ruler")
    assert set(taught[0]) == {row.prompt for row in questions[1::2]}
    assert set(taught[1]) == {row.prompt for row in questions[::2]}
    alone = judges(questions, *folders, "cpu", rewarded=False)
    assert (alone.rewarded, type(alone.ruler), alone.name) == (None, StanceClassifier, "stance judge by wording")
    assert len(taught) == 2
    with pytest.raises(InputError, match="has 3 questions, too few for a stance judge in the reward and another one"):
        judges(questions[:3], *folders, "cpu", rewarded=True)


def test_the_judges_score_counts_for_the_wanted_stance():
    judge = SimpleNamespace(
        predict=lambda prompts, answers: [SimpleNamespace(score=0.75, stance="support") for _ in answers]
    )
    values = stance_values(judge, {1: "support", 2: "oppose"})
    questions = [Asked(1, [{"role": "user", "content": "?"}]), Asked(2, [{"role": "user", "content": "?"}])]
    assert values(questions, ["a", "b"]) == [0.75, -0.75]
    assert measured_by(judge, {1: "support", 2: "oppose"})(questions, ["a", "b"]) == [(0.75, True), (-0.75, False)]
