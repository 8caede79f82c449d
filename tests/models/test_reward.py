"""Reward models trained on a tiny model: the loss, the head, padding, rankings, and what is refused."""

import csv
import json
import math
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from stance.config.road import Reward
from stance.data.chat import conversation, load_tokenizer
from stance.data.comparisons import Comparison
from stance.data.rewards import RewardQuality
from stance.data.samples import SampledAnswer, Samples, answer_hash, write_samples
from stance.data.votes import Score, Vote, append_vote
from stance.errors import InputError
from stance.models.loading import arithmetic
from stance.training.reward import (
    answer_ids,
    load_base,
    load_reward_model,
    pad_id,
    reload_difference,
    require_same_tokenizer,
    score,
    train_reward_model,
)
from tasks.reward import reward
from tests.builders.small_run import QUESTIONS, params, prepare
from tests.builders.taught import write_classifier

TEXTS = ("更好。", "還不錯。", "普通而已。", "大不如前。")
"""Four answers from best to worst, of different length."""


def options(**changes: Any) -> Reward:
    values = {
        "source": "preferences",
        "min_kappa": 0.6,
        "min_shared_questions": 20,
        "held_out": 0.34,
        "num_epoch": 10,
        "learning_rate": 5e-3,
        "per_device_train_batch_size": 6,
        "max_length": 256,
        "margin_per_rank": 0.0,
        "center_rewards_coefficient": 0.0,
        "gradient_checkpointing": False,
        "r": 8,
        "lora_alpha": 16,
        "target_modules": "all-linear",
    }
    return Reward.model_validate(values | changes)


@pytest.fixture(scope="module")
def root(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    prepare(folder, params(tiny_model, pairs__data_size=6, pairs__support_ratio=1.0))
    rows = [
        Samples(
            id=question["id"],
            prompt=question["prompt"],
            answers=[SampledAnswer.of(text, "stop", [-1.0]) for text in TEXTS],
            dropped=0,
        )
        for question in QUESTIONS
    ]
    write_samples(folder / "samples/samples.jsonl", rows)
    write_classifier(folder / "dataset", folder / "classifier")
    return folder


def run_in(root: Path, tiny_model: Path, chosen: Reward, name: str, votes: str = "votes") -> RewardQuality:
    model = params(tiny_model).model
    inputs = (root / "base", root / "classifier", root / "pairs", root / "samples", root / votes)
    reward(model, chosen, 1, *inputs, root / name)
    return RewardQuality.read(root / name / "quality.json")


def vote(prompt_id: int, ranks: list[int], answers: tuple[str, ...] = TEXTS, **changes: Any) -> Vote:
    values = {
        "prompt_id": prompt_id,
        "answers": [answer_hash(text) for text in answers],
        "ranks": ranks,
        "by": "somebody",
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "seed": 1,
    }
    return Vote.model_validate(values | changes)


def vote_in(folder: Path, ranks: list[int], **changes: Any) -> None:
    for question in QUESTIONS:
        append_vote(folder / "votes.jsonl", vote(question["id"], ranks, **changes))


def curves(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def quality(root: Path, tiny_model: Path) -> RewardQuality:
    return run_in(root, tiny_model, options(), "by-pairs")


def test_a_loss_that_is_no_number_ends_the_training_and_names_the_learning_rate(root: Path, tiny_model: Path):
    with pytest.raises(InputError, match=r"is nan at step \d .*; lower reward\.learning_rate, which is 1e\+38$"):
        run_in(root, tiny_model, options(learning_rate=1e38), "broken")


def test_preferences_are_learned_and_hold_for_unseen_questions(quality: RewardQuality):
    """Six pairs prefer *support*, of which a third, 0.34 x 6 = 2, are held out."""
    assert (quality.trained_on, quality.questions, quality.held_out_questions) == (4, 4, 2)
    assert quality.accuracy.count == quality.accuracy.total == 2
    assert quality.training_accuracy.count == 4
    assert quality.last_loss < 0.1


def test_the_first_loss_is_that_of_equal_rewards(quality: RewardQuality):
    """-log sigmoid(0) = log 2."""
    assert quality.first_loss == pytest.approx(math.log(2), abs=1e-4)


def test_the_record_compares_with_length_and_stance(quality: RewardQuality):
    """Both answers of a question have the same number of characters; in tokens the answers may differ."""
    assert quality.reload_difference <= 1e-3
    assert quality.stance_correlation > 0
    assert quality.first_chosen is None
    assert quality.score_correlation is None


def test_the_curves_have_a_row_per_step(root: Path, quality: RewardQuality):
    rows = curves(root / "by-pairs/log.csv")
    assert [int(row["step"]) for row in rows] == list(range(1, 11))  # 4 pairs are one batch; 10 epochs
    assert float(rows[0]["loss"]) == quality.first_loss
    assert float(rows[-1]["accuracy"]) == 1


def test_the_adapter_holds_the_head_and_nothing_but_peft_files(root: Path, quality: RewardQuality):
    assert {path.name for path in (root / "by-pairs/adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    weights = load_file(root / "by-pairs/adapter/adapter_model.safetensors")
    [head] = [value for name, value in weights.items() if name.endswith("score.weight")]
    assert head.shape == (1, 64)  # one reward from 64 hidden figures
    assert head.dtype == torch.float32
    assert head.any()
    assert not any(
        "score" in name
        for name in json.loads((root / "by-pairs/adapter/adapter_config.json").read_text())["target_modules"]
    )


def loaded(root: Path, tiny_model: Path) -> tuple[PeftModel, Any]:
    tokenizer = load_tokenizer(tiny_model)
    return load_reward_model(
        tiny_model, root / "by-pairs/adapter", params(tiny_model).model, pad_id(tokenizer)
    ), tokenizer


def test_a_reward_is_the_heads_product_with_the_last_hidden_state(root: Path, tiny_model: Path, quality: RewardQuality):
    """Worked out from the parts: the adapter on the plain causal model, and the head from the file.

    The tokenizer pads with its end token, so the last token that is no padding is the one before the end.
    """
    model, tokenizer = loaded(root, tiny_model)
    ids = answer_ids(tokenizer, conversation("回覆請少於20字", "好嗎？"), "很好。")
    assert ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    [head] = [
        value
        for name, value in load_file(root / "by-pairs/adapter/adapter_model.safetensors").items()
        if "score" in name
    ]
    trunk = model.base_model.model.model
    with torch.inference_mode():
        hidden = trunk(torch.tensor([ids[:-1]])).last_hidden_state[0, -1]
    assert score(model, [ids], pad_id(tokenizer)) == pytest.approx([float(head[0] @ hidden.float())], abs=1e-4)


def test_padding_does_not_change_a_reward(root: Path, tiny_model: Path, quality: RewardQuality):
    model, tokenizer = loaded(root, tiny_model)
    prompt = conversation("回覆請少於20字", "票房會更好嗎？")
    texts = [answer_ids(tokenizer, prompt, text) for text in ("好。", "不會，因為觀眾早已看膩了這樣的改編。", "會。")]
    alone = [score(model, [text], pad_id(tokenizer))[0] for text in texts]
    assert score(model, texts, pad_id(tokenizer)) == pytest.approx(alone, abs=0.02)  # bf16 sums in another order
    assert len(set(alone)) == 3


def test_an_adapter_without_its_head_is_refused(root: Path, tiny_model: Path, tmp_path: Path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="holds no head"):
        load_reward_model(tiny_model, tmp_path, params(tiny_model).model, 1)
    with pytest.raises(InputError, match="holds no reward model; run `dvc repro reward`"):
        load_reward_model(tiny_model, tmp_path / "nothing", params(tiny_model).model, 1)


def test_rewards_that_differ_after_reading_are_refused():
    assert reload_difference([1.0, 2.0], [1.0, 2.0005]) == pytest.approx(5e-4)
    with pytest.raises(InputError, match="differs from the trained one by up to 0.0020, expected at most 0.001"):
        reload_difference([1.0, 2.0], [1.0, 2.002])
    with pytest.raises(InputError, match="up to nan"):
        reload_difference([1.0], [math.nan])


def train_on(rows: list[Comparison], tiny_model: Path, folder: Path, **changes: Any) -> list[float]:
    """Return the rewards of the four texts for the first question after a training."""
    tokenizer = load_tokenizer(tiny_model)
    trained = train_reward_model(
        tiny_model, tokenizer, rows, params(tiny_model).model, options(**changes), 1, folder / "log.csv"
    )
    ids = [answer_ids(tokenizer, rows[0].prompt, text) for text in TEXTS]
    return score(trained.model, ids, pad_id(tokenizer))


def test_a_ranking_of_four_and_its_six_pairs_give_the_same_order(root: Path, tiny_model: Path, tmp_path: Path):
    """By the stage from rankings, and from the six pairs written out by hand."""
    vote_in(root / "votes", [1, 2, 3, 4])
    ranked = run_in(root, tiny_model, options(source="votes", num_epoch=8), "by-votes")
    assert ranked.trained_on == 4 * 6
    assert ranked.accuracy.total == 2 * 6
    assert ranked.accuracy.count == 12
    model = load_reward_model(tiny_model, root / "by-votes/adapter", params(tiny_model).model, 1)
    tokenizer, prompt = load_tokenizer(tiny_model), conversation("回覆請少於20字", QUESTIONS[0]["prompt"])
    from_ranking = score(model, [answer_ids(tokenizer, prompt, text) for text in TEXTS], 1)
    pairs = [
        Comparison(q["id"], conversation("回覆請少於20字", q["prompt"]), better, worse)
        for q in QUESTIONS
        for better, worse in combinations(TEXTS, 2)
    ]
    from_pairs = train_on(pairs, tiny_model, tmp_path, num_epoch=5)
    assert from_ranking == sorted(from_ranking, reverse=True)
    assert from_pairs == sorted(from_pairs, reverse=True)


def test_a_margin_adds_to_the_first_loss_by_the_distance_of_the_ranks(tiny_model: Path, tmp_path: Path):
    """Rewards are equal at first, so a pair of distance d costs log(1 + exp(0.5 d)); here d is 1 and 3."""
    prompt = conversation("回覆請少於20字", "好嗎？")
    rows = [Comparison(1, prompt, TEXTS[0], TEXTS[1], 1), Comparison(1, prompt, TEXTS[0], TEXTS[3], 3)]
    train_on(rows, tiny_model, tmp_path, margin_per_rank=0.5, num_epoch=1)
    [row] = curves(tmp_path / "log.csv")
    expected = (math.log1p(math.exp(0.5)) + math.log1p(math.exp(1.5))) / 2
    assert float(row["loss"]) == pytest.approx(expected, abs=1e-3)


def test_scores_are_learned_by_regression(root: Path, tiny_model: Path):
    """Scores 4, 3, 2, 1: mean 2.5 and variance 1.25; standardised, their mean square is 1, the first loss."""
    for question in QUESTIONS:
        for text, value in zip(TEXTS, (4, 3, 2, 1), strict=True):
            row = Score(
                prompt_id=question["id"],
                answer=answer_hash(text),
                score=value,
                by="somebody",
                at=datetime(2026, 1, 1, tzinfo=UTC),
            )
            append_vote(root / "votes/scores.jsonl", row)
    chosen = options(source="scores", num_epoch=12, per_device_train_batch_size=16, learning_rate=3e-3)
    quality = run_in(root, tiny_model, chosen, "by-scores")
    assert quality.first_loss == pytest.approx(1, abs=1e-3)
    assert quality.last_loss < 0.5
    assert quality.accuracy.total == 12
    assert quality.accuracy.share > 0.9
    assert quality.score_correlation > 0.8


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([vote(1, [1, 2], ("更好。", "誰知道。"))], "1 unknown answers, the first of question 1"),
        ([vote(99, [1, 2, 3, 4])], "has votes on question 99, whose samples are deleted"),
        ([vote(1, [1, 1, 1, 1]), vote(2, [1, 1, 1, 1])], "holds 2 votes and every one is a tie of all its answers"),
        ([vote(1, [1, 2, 3, 4]), vote(1, [], skipped=True)], "holds 0 votes and every one is skipped or all bad"),
        ([vote(1, [1, 2, 3, 4])], "answers to 1 question; expected at least 2"),
    ],
)
def test_votes_that_teach_nothing_are_refused_before_the_model_is_loaded(
    rows, message, root, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("stance.evaluation.reward_training.train_reward_model", lambda *_: pytest.fail("loaded"))
    for row in rows:
        append_vote(tmp_path / "votes.jsonl", row)
    with pytest.raises(InputError, match=message):
        run_in(root, tiny_model, options(source="votes"), "refused", str(tmp_path))


def test_a_text_beyond_max_length_is_refused(root: Path, tiny_model: Path, monkeypatch):
    """TRL would drop the pair and train on the rest."""
    monkeypatch.setattr("stance.evaluation.reward_training.train_reward_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(InputError, match=r"reward.max_length is 10, and the longest .* has \d+ tokens; raise it to"):
        run_in(root, tiny_model, options(max_length=10), "refused")


def test_a_reward_model_of_another_tokenizer_is_refused(root: Path, tiny_model: Path, quality: RewardQuality):
    tokenizer = load_tokenizer(tiny_model)
    require_same_tokenizer(tokenizer, root / "by-pairs/fingerprint.json", tiny_model)
    tokenizer.chat_template = tokenizer.chat_template.replace("[INST]", "[ASK]")
    with pytest.raises(InputError, match="another tokenizer or template than .*; train one on this base"):
        require_same_tokenizer(tokenizer, root / "by-pairs/fingerprint.json", tiny_model)


def test_the_base_has_whole_weights_on_a_cpu_even_where_the_policy_is_in_4_bits(tiny_model: Path):
    chosen = params(tiny_model).model
    assert chosen.quantization == "nf4"
    base = load_base(tiny_model, chosen, 1)
    assert base.model.layers[0].mlp.up_proj.weight.dtype == arithmetic("cpu")
    assert base.score.weight.dtype == torch.float32
    assert not base.score.weight.any()
