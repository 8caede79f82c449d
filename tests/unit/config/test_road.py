"""The blocks of the long road: what is refused before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from stance.config.params import Params
from stance.config.profiles import LEFT_OUT, complete, completed, compose
from stance.config.road import Reward, Rl, Sample
from stance.errors import InputError
from stance.machine.files import read_yaml

SAMPLE = {"num_answers": 4, "draws": 8, "temperature": 1.0, "top_p": 1.0, "max_similarity": 0.8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_answers": 1}, "greater than or equal to 2"),
        ({"draws": 3}, "sample.draws is 3, fewer than sample.num_answers 4; set it to at least 4"),
        ({"temperature": 0.0}, "greater than 0"),
        ({"top_p": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_sampling_that_gives_nothing_to_rank_is_refused(changes: dict[str, Any], message: str):
    Sample.model_validate(SAMPLE)
    with pytest.raises(ValidationError, match=message):
        Sample.model_validate(SAMPLE | changes)


@pytest.mark.parametrize("block", [Sample, Reward, Rl])
def test_every_parameter_is_described_and_has_no_default(block: type[Sample]):
    for name, field in block.model_fields.items():
        assert field.description, name
        assert field.is_required(), name


REWARD = {
    "source": "preferences", "min_kappa": 0.6, "min_shared_questions": 20, "held_out": 0.2, "num_epoch": 1,
    "learning_rate": 1e-3, "per_device_train_batch_size": 4, "max_length": 256, "margin_per_rank": 0,
    "center_rewards_coefficient": 0, "gradient_checkpointing": False, "r": 8,
    "lora_alpha": 16, "target_modules": "all-linear",
}  # fmt: skip
RL = {
    "use_vllm": False, "algorithm": "grpo", "max_steps": 1, "num_generations": 2, "prompts_per_step": 1,
    "per_device_train_batch_size": 2,
    "max_completion_length": 8, "temperature": 1, "beta": 0.05, "learning_rate": 1e-3, "reward_model_weight": 1,
    "stance_judge_weight": 0, "cut_off_penalty": 0, "window": 1, "max_ruler_fall": 1, "gradient_checkpointing": False,
    "r": 8, "lora_alpha": 16, "target_modules": "all-linear",
}  # fmt: skip
LONG = {"align.method": "rlhf", "reward": REWARD, "rl": RL}


def test_a_file_without_the_long_road_is_that_of_the_short_one(tmp_path: Path):
    """Its comments stay, and DVC finds the keys that it asks for."""
    path = tmp_path / "params.yaml"
    kept = {key: value for key, value in compose("miniature").items() if key not in LEFT_OUT}
    kept["model"] = {key: value for key, value in kept["model"].items() if key != "devices"}
    path.write_text("# mine\n" + yaml.safe_dump(kept))
    before = Params.load(path)
    assert before == Params.parse(compose("miniature"), "miniature")
    assert complete(path) == ["model.devices", *LEFT_OUT]
    assert complete(path) == []
    assert path.read_text().startswith("# mine\n")
    assert read_yaml(path) == completed(kept) == compose("miniature")
    assert Params.load(path) == before


def test_a_file_in_json_is_completed_too(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({"seed": 1, "sft": None}))
    complete(path)
    assert read_yaml(path) == {"seed": 1, **LEFT_OUT}


def test_the_long_road_has_all_that_it_needs():
    params = Params.parse(compose("miniature", LONG), "test")
    assert (params.align.method, params.sft, params.sample) == ("rlhf", None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rl": None}, "align.method is rlhf, but rl is null; copy the block from profiles/miniature-rlhf.yaml"),
        ({"reward": None}, "rl.reward_model_weight is 1, but reward is null, so that there is no reward model"),
        ({"reward": REWARD | {"source": "votes"}}, "reward.source is votes, which are about sampled answers, but samp"),
        ({"rl": RL | {"beta": 0}}, "rl.beta is 0, so that grpo has no KL penalty and no reference; set it above 0"),
        ({"sample": SAMPLE | {"num_answers": 1}}, "sample.num_answers: input should be greater than or equal to 2"),
        ({"align.method": "ppo"}, "align.method: input should be 'dpo' or 'rlhf'"),
    ],
)
def test_a_road_with_a_gap_is_refused_in_one_sentence(changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        compose("miniature", LONG | changes)


def test_a_block_that_is_not_on_the_road_is_no_gap():
    compose("miniature", {"align.method": "dpo", "reward": REWARD})
    compose("miniature", LONG | {"reward": None, "rl": RL | {"reward_model_weight": 0, "stance_judge_weight": 1}})
