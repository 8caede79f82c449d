"""What only a GPU can show: the same training, merge and answers there, on a tiny model."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from stance.config.params import Params
from stance.data.chat import conversation, encode_answer, load_tokenizer
from stance.data.training import Parity
from stance.evaluation.gates import parity_gate
from stance.models.loading import load, nf4
from stance.models.parity import score
from tests.builders.small_run import QUESTIONS, merge_in, params, prepare, train_in
from tests.models.test_train import apart, gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


def on_gpu(model: Path, **overrides: object) -> Params:
    return params(model, model__device="cuda", train__optim="paged_adamw_8bit", **overrides)


@pytest.fixture(scope="module")
def root(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    prepare(folder, on_gpu(tiny_model))
    return folder


def losses(root: Path, chosen: Params, name: str) -> list[float]:
    train_in(root, chosen, name)
    with (root / f"{name}-log/log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_gradients_on_4_bit_weights_equal_those_on_the_dequantised_weights(root: Path, tiny_model: Path):
    chosen = on_gpu(tiny_model)
    packed = gradients(chosen, root, load(tiny_model, "cuda", nf4("cuda")))
    plain = gradients(chosen, root, load(tiny_model, "cuda", nf4("cuda")).dequantize(torch.bfloat16))
    assert apart(packed, plain) < 0.05


def test_gradients_survive_an_eval_mode_forward(root: Path, tiny_model: Path):
    """The trap that a CPU has, so that reference log-probabilities may be computed first."""
    chosen = on_gpu(tiny_model)
    fresh = gradients(chosen, root, load(tiny_model, "cuda", nf4("cuda")))
    model = load(tiny_model, "cuda", nf4("cuda")).eval()
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]], device="cuda"))
    assert apart(gradients(chosen, root, model), fresh) < 0.05


def test_a_larger_micro_batch_and_precomputed_references_leave_the_losses_as_they_are(root: Path, tiny_model: Path):
    slow = on_gpu(tiny_model, train__per_device_train_batch_size=1, train__gradient_accumulation_steps=2)
    fast = on_gpu(tiny_model, train__precompute_ref_log_probs=True)
    assert losses(root, fast, "fast") == pytest.approx(losses(root, slow, "slow"), abs=1e-2)


def test_merged_model_is_the_trained_one(root: Path, tiny_model: Path):
    chosen = on_gpu(tiny_model)
    adapter = train_in(root, chosen, "adapter")
    merge_in(root, chosen, adapter)
    assert parity_gate(chosen.merge, Parity.read(root / "merge/parity.json")).passed


def test_engine_scores_as_transformers_does(root: Path, tiny_model: Path):
    (root / "params.yaml").write_text(yaml.safe_dump(on_gpu(tiny_model).model_dump(mode="json")))
    command = [sys.executable, "-m", "tasks.answers", str(tiny_model), "dataset", "out.jsonl", "beside"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, cwd=root, env=environment, check=True, timeout=500)
    tokenizer, model = load_tokenizer(tiny_model), load(tiny_model, "cuda")
    logps = json.loads((root / "beside/logps.json").read_text())
    for row in QUESTIONS:
        text = encode_answer(tokenizer, conversation("回覆請少於20字", row["prompt"]), row["support"])
        [expected] = score(model, [text])
        assert logps[str(row["id"])]["support"] == pytest.approx(expected.logps, abs=0.1)
