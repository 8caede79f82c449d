"""The fine-tuning of all weights: saved as a model like the base, which everything after it starts from."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stance.config.params import Params
from stance.config.road import Sample
from stance.data.noise import Floor
from stance.data.training import FineTuning, Joint, Parity
from stance.errors import InputError
from stance.evaluation.gates import joint_gates
from stance.inference import sampling
from stance.models.base import locate, locate_tuned
from stance.training.fine_tuning import all_weights
from stance.training.merging import stored_names
from tasks.train import train
from tests.builders.small_run import merge_in, params, prepare, sharpened, train_in

NOISE = Floor(mean=0.001, worst=0.01)


@pytest.fixture(scope="module")
def sharp(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can learn, because its logits are far apart."""
    return sharpened(tiny_model, tmp_path_factory.mktemp("sharp") / "model")


@pytest.fixture(scope="module")
def chosen(sharp: Path) -> Params:
    return params(sharp, sft={"method": "full", "num_epoch": 8, "learning_rate": 5e-3}, train__num_epoch=1)


@pytest.fixture(scope="module")
def root(chosen: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    prepare(folder, chosen)
    train_in(folder, chosen)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_every_weight_is_trained_and_the_files_are_those_of_the_base(root: Path):
    base, tuned = locate(root / "base"), root / "adapter-sft/model"
    assert sorted(path.name for path in tuned.iterdir()) == sorted(path.name for path in base.iterdir())
    before, after = weights(base), weights(tuned)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in after.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in before.items()
    }
    assert [name for name in before if before[name].equal(after[name])] == []
    assert not (root / "adapter-sft/adapter").exists()


def test_the_loss_on_the_answers_falls(root: Path):
    record = FineTuning.read(root / "adapter-sft/sft.json")
    assert record.last_loss < 0.5 * record.first_loss


def test_the_training_begins_where_the_fine_tuning_ended(root: Path):
    joint = Joint.read(root / "adapter-log/joint.json")
    assert joint.reference is not None
    assert joint.reference.tokens > 50
    assert joint.first_reward == pytest.approx(0, abs=1e-6)
    [gate] = joint_gates(NOISE, joint)
    assert gate.passed


def test_a_joint_that_is_broken_on_purpose_is_named(root: Path, chosen: Params, tmp_path: Path):
    """Other weights than those whose log-probabilities were recorded."""
    for source in [
        root / "adapter-sft/sft.json",
        root / "adapter-sft/logps.json",
        *(root / "adapter-sft/model").iterdir(),
    ]:
        target = tmp_path / "sft" / source.relative_to(root / "adapter-sft")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    path = tmp_path / "sft/model/model.safetensors"
    save_file({name: 1.2 * weight for name, weight in load_file(path).items()}, path, {"format": "pt"})
    inputs = (root / "base", root / "pairs", root / "answers", tmp_path / "sft", tmp_path / "rl")
    train(chosen.model, chosen.train, chosen.seed, *inputs, tmp_path / "adapter", tmp_path, tmp_path / "checkpoints")
    [gate] = joint_gates(NOISE, Joint.read(tmp_path / "joint.json"))
    assert (gate.name, gate.passed) == ("joint", False)


def test_the_adapter_is_merged_into_the_fine_tuned_weights(root: Path, chosen: Params):
    tuned = root / "adapter-sft"
    merge_in(root, chosen, root / "adapter", tuned.name)
    before, merged = weights(tuned / "model"), weights(root / "merged")
    adapted = {name for name in merged if "_proj" in name}
    assert {name for name in merged if not merged[name].equal(before[name])} == adapted
    parity = Parity.read(root / "merge/parity.json")
    assert parity.mean < 0.05


def test_answers_are_drawn_from_the_fine_tuned_weights(root: Path, chosen: Params, tmp_path: Path, monkeypatch):
    """vLLM's part is left out: which folder it is given decides."""
    given = []

    def complete(folder, model, answers, batch, adapter):
        given.append((folder, adapter))
        raise InputError("enough")

    monkeypatch.setattr(sampling, "complete", complete)
    options = Sample(draws=2, num_answers=2, temperature=1.0, top_p=1.0, max_similarity=1.0)
    with pytest.raises(InputError, match="enough"):
        sampling.draw(
            chosen.model, chosen.answers, options, 1, root / "base", root / "adapter-sft", root / "dataset",
            tmp_path / "samples.jsonl",
        )  # fmt: skip
    assert given == [(root / "adapter-sft/model", None)]


def test_an_adapter_or_nothing_leaves_the_base_where_it_is(root: Path, tmp_path: Path):
    assert locate_tuned(root / "base", tmp_path) == locate(root / "base")


def test_plain_text_goes_into_the_same_weights(root: Path, chosen: Params, tmp_path: Path):
    """Without a step on the answers that moves it, the model is that of the plain text."""
    from tests.models.test_sft import texts, tune

    block = texts(tmp_path / "plain.jsonl", {"text": "天上的雲很白。" * 6})
    nearly_still = {"num_epoch": 0.01, "learning_rate": 1e-12}
    tune(chosen, root, tmp_path / "still", **nearly_still)
    tune(chosen, root, tmp_path / "after", **nearly_still, plain_text=block)
    base = weights(locate(root / "base"))
    still, after = (weights(tmp_path / name / "model") for name in ("still", "after"))
    assert all(still[name].equal(base[name]) for name in base)
    assert not any(after[name].equal(base[name]) for name in base if "_proj" in name)


def test_weights_that_the_files_do_not_name_are_refused_before_the_training(sharp: Path, tmp_path: Path):
    for source in sharp.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    path = tmp_path / "model.safetensors"
    renamed = {name.replace("model.layers", "layers"): tensor for name, tensor in load_file(path).items()}
    save_file(renamed, path, {"format": "pt"})
    assert "layers.0.mlp.up_proj.weight" in stored_names(tmp_path)
    with pytest.raises(InputError, match=r"has no weight of the name model\.layers\.0"):
        all_weights(tmp_path, "cpu")


def test_the_record_says_what_was_trained(root: Path):
    assert FineTuning.read(root / "adapter-sft/sft.json").method == "full"
