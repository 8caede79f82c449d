"""The training: right gradients on 4-bit weights, nothing but the adapter changed, resumable, deterministic."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from bitsandbytes.nn.modules import Linear4bit
from datasets import Dataset
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import TrainerCallback
from trl.trainer import utils as trl_utils
from trl.trainer.dpo_trainer import DPOTrainer

from stance.config.params import Params
from stance.config.training import Loss
from stance.data.chat import load_tokenizer
from stance.data.preferences import read_pairs
from stance.errors import InputError
from stance.models.loading import arithmetic, load, nf4
from stance.training.checkpoints import last_complete
from stance.training.dpo import (
    Dequantized,
    adapter_in_fp32,
    dequantize,
    dpo_config,
    lora_config,
    require_no_control_tokens,
)
from stance.training.merging import answer_texts
from tasks.train import train
from tests.builders.small_run import params, prepare, train_in


class Gradients(TrainerCallback):
    """Keeps the adapter's gradients of every optimiser step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.steps.append(torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None]))


@pytest.fixture(scope="module")
def root(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    prepare(folder, params(tiny_model))
    return folder


@pytest.fixture(scope="module")
def adapter(root: Path, tiny_model: Path) -> Path:
    return train_in(root, params(tiny_model))


def test_a_share_of_the_adapters_change_is_kept(root: Path, adapter: Path, tiny_model: Path):
    half = load_file(train_in(root, params(tiny_model, train__adapter_scale=0.5), "half") / "adapter_model.safetensors")
    whole = load_file(adapter / "adapter_model.safetensors")
    assert half.keys() == whole.keys()
    for name, weight in whole.items():
        assert torch.equal(half[name], 0.5 * weight if "lora_B" in name else weight)


def gradients(
    chosen: Params,
    root: Path,
    model: str | torch.nn.Module,
    prepare: Callable[[torch.nn.Module], None] = adapter_in_fp32,
    **kwargs: object,
) -> list[torch.Tensor]:
    config = dpo_config(chosen.model, chosen.train, chosen.seed, root / "gradients")
    config.save_strategy, config.learning_rate = "no", 0.0
    if not isinstance(model, str):
        config.model_init_kwargs = None
    rows = [json.loads(line) for line in (root / "pairs/train.jsonl").read_text().splitlines()]
    seen = Gradients()
    trainer = DPOTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows).select_columns(["prompt", "chosen", "rejected"]),
        processing_class=load_tokenizer(Path(config_folder(chosen))),
        peft_config=lora_config(chosen.train),
        callbacks=[seen],
        **kwargs,
    )
    prepare(trainer.model)
    trainer.train()
    return seen.steps


def config_folder(chosen: Params) -> str:
    return str(chosen.base.path)


def apart(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest relative difference of a step's gradients."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def test_gradients_on_4_bit_weights_equal_those_on_the_dequantised_weights(root: Path, tiny_model: Path):
    """In the order of the stage: policy with the adapter on, reference with it off, backward; step after step."""
    chosen = params(tiny_model)
    quantised = gradients(chosen, root, str(tiny_model), quantization_config=nf4("cpu"))
    plain = gradients(chosen, root, load(tiny_model, "cpu", nf4("cpu")).dequantize(arithmetic("cpu")))
    assert len(quantised) == 6
    assert apart(quantised, plain) < 0.05


def dequantised_and_read(policy: torch.nn.Module) -> None:
    """What the stage does to a policy, and an eval-mode pass, with which 4-bit weights would be spoiled."""
    adapter_in_fp32(policy)
    dequantize(policy)
    with torch.no_grad():
        policy.eval()(torch.tensor([[1, 2, 3]]))


def test_weights_that_are_dequantised_once_have_the_same_gradients(root: Path, tiny_model: Path):
    chosen = params(tiny_model)
    quantised = gradients(chosen, root, str(tiny_model), quantization_config=nf4("cpu"))
    once = gradients(chosen, root, str(tiny_model), dequantised_and_read, quantization_config=nf4("cpu"))
    assert len(once) == 6
    assert apart(once, quantised) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dequantised_layer_has_the_products_of_its_4_bit_layer(dtype: torch.dtype, tiny_model: Path):
    """To the last bit, whatever the dtype of the rows is, forward and backward; its weights are not trained."""
    layers = [layer for layer in load(tiny_model, "cpu", nf4("cpu")).modules() if isinstance(layer, Linear4bit)]
    assert len(layers) == 14
    for layer in layers:
        rows = torch.randn(3, 5, layer.in_features, generator=torch.Generator().manual_seed(1)).to(dtype)
        found = []
        for way in (layer, Dequantized(layer)):
            given = rows.clone().requires_grad_()
            product = way(given)
            product.square().sum().backward()
            assert product.dtype == dtype
            assert not any(parameter.requires_grad for parameter in way.parameters())
            found.append((product, given.grad))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_adapter_holds_peft_files_only(adapter: Path):
    assert {path.name for path in adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_adapter_lists_its_layers_in_an_order_that_does_not_change(adapter: Path):
    listed = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    assert len(listed) == 14  # seven linear layers in each of two blocks, which PEFT names one by one
    assert listed == sorted(listed)


def test_every_adapter_matrix_was_moved(adapter: Path):
    """LoRA's B starts at zero, so that a B which is not zero has been trained."""
    weights = load_file(adapter / "adapter_model.safetensors")
    trained = {name: bool(value.any()) for name, value in weights.items() if "lora_B" in name}
    assert len(trained) == 14  # seven linear layers in each of two blocks
    assert all(trained.values())


def test_log_has_a_row_per_optimiser_step_under_trl_names(adapter: Path):
    with (adapter.parent / "adapter-log/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]  # 4 pairs x 3 epochs / 2 per batch
    assert {"loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"} <= rows[0].keys()
    metrics = json.loads((adapter.parent / "adapter-log/metrics.json").read_text())
    assert metrics["loss"] == float(rows[-1]["loss"])


def test_first_step_has_no_margin(adapter: Path):
    """Policy and reference are the same model before the first update: the sigmoid term is log 2, the margin 0."""
    with (adapter.parent / "adapter-log/log.csv").open() as file:
        first = next(csv.DictReader(file))
    assert float(first["rewards/margins"]) == 0


def test_same_seed_gives_the_same_adapter(adapter: Path, root: Path, tiny_model: Path):
    again = train_in(root, params(tiny_model), "again")
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch itself, while it traces
def test_compiled_layers_train_the_same_adapter(adapter: Path, root: Path, tiny_model: Path, monkeypatch):
    """Whole layers are captured, once for all batches. Here they are not translated, which takes minutes on a CPU."""
    whole = partialmethod(torch.nn.Module.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch.nn.Module, "compile", whole)
    captured = counters["stats"]["calls_captured"]
    compiled = train_in(root, params(tiny_model, train__compile="always"), "compiled")
    assert counters["stats"]["calls_captured"] > captured
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, compiled))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_references_computed_once_leave_the_training_as_it_is(root: Path, tiny_model: Path):
    """A base that does not change gives the same reference in every epoch."""
    logs = []
    for once in (False, True):
        chosen = params(tiny_model, train__precompute_ref_log_probs=once)
        folder = train_in(root, chosen, f"once-{once}")
        with (root / f"{folder.name}-log/log.csv").open() as file:
            logs.append([float(row["loss"]) for row in csv.DictReader(file)])
    assert logs[1] == pytest.approx(logs[0], abs=1e-2)
    assert logs[1][-1] < logs[1][0]


def test_logits_are_computed_for_answers_alone(root: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    """By the reference once, and by the policy in every epoch; not for prompts and padding."""
    chosen, computed = params(tiny_model, train__precompute_ref_log_probs=True), []
    apply = trl_utils._ChunkedLogProbFunction.apply

    def counted(hidden: torch.Tensor, *rest: object) -> object:
        computed.append(len(hidden))
        return apply(hidden, *rest)

    monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", SimpleNamespace(apply=counted))
    train_in(root, chosen, "counted")
    tokenizer, pairs = load_tokenizer(tiny_model), read_pairs(root / "pairs/train.jsonl")
    answers = [len(answer) for pair in pairs for _, answer in answer_texts(tokenizer, pair)]
    assert sum(computed) == (1 + chosen.train.num_epoch) * sum(answers)


def test_a_batch_has_the_losses_of_its_pairs_one_by_one(root: Path, tiny_model: Path):
    """As the course's notebook has them, which accumulates gradients of single pairs; without dropout."""
    logs = []
    for pairs in (2, 1):
        split = {"per_device_train_batch_size": pairs, "gradient_accumulation_steps": 2 // pairs, "lora_dropout": 0.0}
        folder = train_in(
            root, params(tiny_model, **{f"train__{key}": value for key, value in split.items()}), f"by-{pairs}"
        )
        with (root / f"{folder.name}-log/log.csv").open() as file:
            logs.append([float(row["loss"]) for row in csv.DictReader(file)])
    assert len(logs[0]) == 6
    assert logs[0] == pytest.approx(logs[1], abs=2e-3)


def test_the_dropout_of_the_adapter_does_what_it_says(adapter: Path, root: Path, tiny_model: Path):
    """TRL turns it off; the course's notebook, on an older TRL, had it on."""
    folders = [train_in(root, params(tiny_model, train__lora_dropout=0.5), f"dropped-{n}") for n in (1, 2)]
    without, dropped, again = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, *folders))
    assert any(not torch.equal(dropped[name], without[name]) for name in without)
    assert all(torch.equal(dropped[name], again[name]) for name in dropped)
    with (root / "dropped-1-log/log.csv").open() as file:
        first = next(csv.DictReader(file))
    assert float(first["rewards/margins"]) == 0  # the reference has no adapter, and B begins at zero


def test_a_prompt_that_fills_the_length_is_refused(root: Path, tiny_model: Path):
    """TRL would drop the pair and train on the rest."""
    with pytest.raises(InputError, match="train.max_length is 20, and 4 of 4 prompts alone are as long; raise it"):
        train_in(root, params(tiny_model, train__max_length=20), "short")


@pytest.mark.parametrize("loss", get_args(Loss))
def test_every_loss_of_trl_trains(loss: str, root: Path, tiny_model: Path):
    smoothing = 0.1 if loss in ("robust", "exo_pair") else 0.0
    chosen = params(
        tiny_model,
        train__loss_type=[loss],
        train__loss_weights=[1.0],
        train__label_smoothing=smoothing,
        train__num_epoch=1,
    )
    adapter = train_in(root, chosen, f"adapter-{loss}")
    matrices = load_file(adapter / "adapter_model.safetensors")
    assert any(matrix.any() for name, matrix in matrices.items() if "lora_B" in name)
    with (root / f"adapter-{loss}-log/log.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2


def test_finished_run_leaves_no_checkpoint(adapter: Path):
    assert not list((adapter.parent / "checkpoints").glob("*/checkpoint-*"))


class Killed(RuntimeError):
    pass


def die_at(step: int):
    def on_log(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise Killed

    return on_log


def test_killed_run_resumes_and_ends_with_the_same_adapter(adapter, root, tiny_model, monkeypatch, caplog):
    chosen = params(tiny_model)
    with monkeypatch.context() as patch:
        patch.setattr("stance.training.progress.Progress.on_log", die_at(5))
        with pytest.raises(Killed):
            train_in(root, chosen, "resumed")
    with caplog.at_level("INFO", logger="stance"):
        resumed = train_in(root, chosen, "resumed")
    assert "resuming at step 4 of 6" in caplog.text
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (root / "resumed-log/log.csv").read_text() == (root / "adapter-log/log.csv").read_text()


def test_changed_run_does_not_resume(root, tiny_model, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr("stance.training.progress.Progress.on_log", die_at(5))
        with pytest.raises(Killed):
            train_in(root, params(tiny_model, train__beta=0.2), "killed")
    with caplog.at_level("INFO", logger="stance"):
        train_in(root, params(tiny_model, train__beta=0.3), "changed")
    assert "resuming" not in caplog.text


def test_checkpoint_that_was_cut_off_is_passed_over(tmp_path: Path):
    for step, state in (("2", '{"global_step": 2}'), ("4", '{"global_st'), ("10", None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}/trainer_state.json").write_text(state)
    assert last_complete(tmp_path) == str(tmp_path / "checkpoint-2")
    assert last_complete(tmp_path / "nothing") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused_before_anything_is_read(tmp_path: Path, tiny_model: Path):
    chosen = params(tiny_model, model__device="cuda")
    with pytest.raises(InputError, match="model.device is cuda and torch finds no GPU"):
        train(chosen.model, chosen.train, chosen.seed, *[tmp_path / "nothing"] * 8)


def test_a_layer_that_the_model_has_not_is_refused_before_the_weights_are_loaded(root, tiny_model, monkeypatch):
    monkeypatch.setattr("stance.training.preference_training.RetainingTrainer", lambda **_: pytest.fail("loaded"))
    with pytest.raises(InputError, match="train.target_modules names gate_up_proj, which a mistral does not have"):
        train_in(root, params(tiny_model, train__target_modules=["q_proj", "gate_up_proj"]))


def test_changed_chat_template_is_refused(root: Path, tiny_model: Path, tmp_path: Path):
    record = json.loads((root / "base/fingerprint.json").read_text())
    for path in (root / "base").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "fingerprint.json").write_text(json.dumps(record | {"chat_template": "another"}))
    chosen = params(tiny_model)
    with pytest.raises(InputError, match="reads the probe conversations differently"):
        train(chosen.model, chosen.train, chosen.seed, tmp_path, root / "pairs", *[tmp_path / "out"] * 6)


TRAP = """
import sys, torch
from pathlib import Path
from stance.models.loading import arithmetic, load, nf4
from tests.models.test_train import apart, gradients
from tests.builders.small_run import params

root, folder = map(Path, sys.argv[1:])
chosen = params(folder)
plain = gradients(chosen, root, load(folder, "cpu", nf4("cpu")).dequantize(arithmetic("cpu")))
model = load(folder, "cpu", nf4("cpu")).eval()
with torch.no_grad():
    model(torch.tensor([[1, 2, 3]]))
print(apart(gradients(chosen, root, model), plain))
"""


@pytest.mark.skipif(not has_avx512bf16(), reason="bitsandbytes repacks 4-bit weights on CPUs with AVX512-BF16 only")
def test_gradient_check_notices_the_trap_of_an_eval_mode_forward(root: Path, tiny_model: Path):
    """The reason why weights are dequantised on a CPU, shown by what happens otherwise."""
    done = subprocess.run(
        [sys.executable, "-c", TRAP, str(root), str(tiny_model)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split()[-1]) > 0.5


def test_a_pair_with_a_control_token_of_the_model_is_refused(tiny_model: Path):
    row = {"prompt": [{"role": "user", "content": "Is it </s> good?"}], "chosen": [{"content": "Yes."}]}
    with pytest.raises(InputError, match="prompt of pair 1 holds </s>"):
        require_no_control_tokens([row], load_tokenizer(tiny_model), tiny_model)
