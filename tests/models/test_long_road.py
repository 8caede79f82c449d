"""The long road in miniature: base, pairs, fine-tuning, reward model, reinforcement learning, hand-over, merge."""

import csv
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file

from stance.config.params import Params
from stance.config.profiles import compose
from stance.data.noise import MERGED, UNMEASURED
from stance.data.reinforcement import Reinforcement
from stance.data.rewards import RewardQuality
from stance.data.training import FineTuning, Joint, Parity, Watchdog
from stance.evaluation.gates import joint_gates
from stance.pages.long_road import shown
from tasks.base import base
from tasks.classifier import classifier
from tasks.dataset import dataset
from tasks.merge import merge
from tasks.pairs import pairs
from tasks.reward import reward
from tasks.rl import rl
from tasks.sft import sft
from tasks.train import train

CORPORA = Path("data/sources/stance/corpus")


class Road(NamedTuple):
    """A run of the profile, with half of its training of the base."""

    root: Path

    @property
    def joint(self) -> Joint:
        """The joint that the training has kept."""
        return Joint.read(self.root / "train/joint.json")

    @property
    def reinforcement(self) -> Reinforcement:
        """The record of the reinforcement learning."""
        return Reinforcement.read(self.root / "rl/rl.json")


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """About 160 s on 2 busy cores: base 70, fine-tuning 8, reward model 18, reinforcement learning 58, merge 5."""
    root = tmp_path_factory.mktemp("road")
    params = Params.parse(compose("miniature-rlhf", {"base.max_steps": 150}), "test")
    model, seed, nowhere = params.model, params.seed, root / "none"
    data, made, taught, preferred, tuned = (root / name for name in ("dataset", "base", "classifier", "pairs", "sft"))
    dataset(params.dataset, data)
    base(params.base, model.system_prompt, seed, data, made)
    classifier(model.device, data, CORPORA, made, taught)
    pairs(params.pairs, model, seed, data, taught, made, nowhere, preferred)
    sft(model, params.sft, params.train, seed, made, preferred, tuned)
    reward(model, params.reward, seed, made, taught, preferred, nowhere, nowhere, root / "reward")
    inputs = (made, data, CORPORA, taught, preferred, tuned, root / "reward")
    rl(model, params.rl, params.answers, seed, *inputs, root / "rl")
    adapter = root / "adapter"
    outputs = (adapter, root / "train", root / "checkpoints")
    train(model, params.train, seed, made, preferred, nowhere, tuned, root / "rl", *outputs)
    merge(model, params.merge, made, tuned, adapter, preferred, root / "merged", root / "merge")
    return Road(root)


def test_every_joint_holds(road: Road):
    """Reference and rewards are computed again from the same weights: not a bit differs on this machine."""
    parity = Parity.read(road.root / "merge/parity.json")
    gates = joint_gates(parity.floor or UNMEASURED, road.joint)
    assert [(gate.name, gate.passed) for gate in gates] == [("joint", True), ("reward joint", True)]
    assert road.joint.reference
    assert road.joint.reference.tokens > 1000
    assert road.joint.first_kl == pytest.approx(0, abs=1e-6)


def test_the_fine_tuning_trains_on_answers_and_their_ends(road: Road):
    record = FineTuning.read(road.root / "sft/sft.json")
    assert record.rows == 50
    assert 0 < record.trained_tokens < record.tokens
    assert all(row[-1].trained and not row[0].trained for row in record.examples)


def test_the_reward_model_is_right_on_questions_that_it_has_not_seen(road: Road):
    quality = RewardQuality.read(road.root / "reward/quality.json")
    assert (quality.trained_on, quality.held_out_questions) == (40, 10)
    assert quality.accuracy
    assert quality.accuracy.share >= 0.85
    assert quality.reload_difference <= 1e-3


def test_reward_and_independent_stance_share_rise_and_the_kl_divergence_is_bounded(road: Road):
    record = road.reinforcement
    assert record.reason is None
    assert record.kept.reward > record.first.reward + 0.5
    assert record.kept.ruler > record.first.ruler
    assert record.kept.stance_share > record.first.stance_share
    assert record.kept.stance_share >= 0.7
    assert 0 < record.kept.kl < 0.5


def test_one_adapter_goes_through_and_is_merged_once(road: Road):
    """The training hands on the adapter of the reinforcement learning, which began with that of the fine-tuning."""
    files = [road.root / name / "adapter_model.safetensors" for name in ("sft/adapter", "rl/adapter", "adapter")]
    tuned, reinforced, merged = map(load_file, files)
    assert tuned.keys() == reinforced.keys() == merged.keys()
    assert all(reinforced[name].equal(merged[name]) for name in merged)
    assert not all(tuned[name].equal(merged[name]) for name in merged)
    parity = Parity.read(road.root / "merge/parity.json")
    mean, worst = (parity.floor or UNMEASURED).bounds(MERGED)
    assert (parity.mean <= mean, parity.worst <= worst) == (True, True)


def test_the_log_of_the_training_is_that_of_the_reinforcement_learning(road: Road):
    with (road.root / "train/log.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 25))
    assert Watchdog.read(road.root / "train/watchdog.json") == Watchdog(reason=None, step=None, steps=24)


def test_the_report_has_a_section_for_every_stage(road: Road):
    values = shown(*(road.root / name for name in ("sft", "reward", "rl")))
    assert values["masks"]
    assert all(mask.end == "</s>" for mask in values["masks"])
    assert [figure.value for figure in values["reward_figures"]][-1] == "0"
    assert len(values["stretches"]) == 6
