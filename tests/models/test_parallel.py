"""A training on several devices is the one on one device, shared: here two processes on a CPU, joined by Gloo."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from stance.config.params import Params
from tests.builders.small_run import params, prepare

# Five pairs in batches of four: in the last step of an epoch there is one pair for two processes.
SMALL = {
    "pairs__data_size": 5,
    "train__num_epoch": 2,
    "train__global_batch_size": 4,
    "train__per_device_train_batch_size": 4,
    "train__lora_dropout": 0.0,
}


@pytest.fixture(scope="module")
def root(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    prepare(folder, params(tiny_model, **SMALL))
    return folder


def start(root: Path, chosen: Params, name: str) -> "subprocess.Popen[str]":
    """Start the stage as `dvc repro` does, in a folder of its own."""
    folder = root / name
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(chosen.model_dump(mode="json")), encoding="utf-8")
    paths = [str(root / "base"), str(root / "pairs"), "answers", "sft", "rl", "adapter", "train", "checkpoints"]
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.train", *paths],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def trained(root: Path, chosen: Params, name: str) -> str:
    """Train to the end, and return what was printed."""
    process = start(root, chosen, name)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return printed


@pytest.fixture(scope="module")
def one(root: Path, tiny_model: Path) -> Path:
    trained(root, params(tiny_model, **SMALL), "one")
    return root / "one"


@pytest.fixture(scope="module")
def in_halves(root: Path, tiny_model: Path) -> Path:
    """One process that adds up the gradients of two batches: the known noise of another split."""
    halves = SMALL | {"train__per_device_train_batch_size": 2, "train__gradient_accumulation_steps": 2}
    trained(root, params(tiny_model, **halves), "in-halves")
    return root / "in-halves"


@pytest.fixture(scope="module")
def two(root: Path, tiny_model: Path) -> tuple[Path, str]:
    return root / "two", trained(root, params(tiny_model, **SMALL, model__devices=2), "two")


def change(folder: Path) -> torch.Tensor:
    """Return the change of all weights by an adapter, B times A, as one vector."""
    weights = load_file(folder / "adapter/adapter_model.safetensors")
    names = sorted(name for name in weights if "lora_A" in name)
    return torch.cat([(weights[name.replace("lora_A", "lora_B")] @ weights[name]).flatten() for name in names])


def column(folder: Path, name: str) -> list[float]:
    with (folder / "train/log.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_two_processes_train_the_adapter_of_one(one: Path, two: tuple[Path, str], in_halves: Path):
    """Within the rounding of bf16, which another split of a batch has on one device, too."""
    expected = change(one)
    apart = float((change(two[0]) - expected).norm() / expected.norm())
    noise = float((change(in_halves) - expected).norm() / expected.norm())
    print(f"two processes {apart:.4f}, one process in halves {noise:.4f}")
    assert apart < 0.05


@pytest.mark.parametrize(
    ("name", "apart"),
    [("loss", 2e-3), ("rewards/margins", 2e-3), ("logps/chosen", 0.1), ("rewards/accuracies", 0.3), ("step", 0)],
)
def test_the_log_of_two_processes_is_that_of_one(one: Path, two: tuple[Path, str], name: str, apart: float):
    found = column(two[0], name)
    assert len(found) == 4  # 5 pairs in batches of 4, 2 epochs
    assert found == pytest.approx(column(one, name), abs=apart)


def test_only_one_process_writes_and_logs(two: tuple[Path, str]):
    folder, printed = two
    assert {path.name for path in (folder / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert {path.name for path in (folder / "train").iterdir()} == {
        "joint.json",
        "log.csv",
        "metrics.json",
        "watchdog.json",
    }
    assert json.loads((folder / "train/watchdog.json").read_text())["found"] is None
    assert re.findall(r"^step (\d)/4", printed, re.MULTILINE) == ["1", "2", "3", "4"]
    assert printed.count("trained in") == 1
    assert list((folder / "checkpoints").iterdir()) == []


def test_an_error_of_the_processes_is_one_sentence_and_an_exit_code(root: Path, tiny_model: Path):
    process = start(root, params(tiny_model, **SMALL, model__devices=2, train__max_length=20), "short")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert set(lines) == {"error: train.max_length is 20, and 5 of 5 prompts alone are as long; raise it"}
    assert "Traceback" not in errors


def test_kill_9_of_the_stage_leaves_no_process(root: Path, tiny_model: Path):
    chosen = params(tiny_model, **SMALL | {"train__num_epoch": 2000}, model__devices=2)
    process = start(root, chosen, "killed")
    assert process.stdout is not None
    while not process.stdout.readline().startswith("step 2/"):
        assert process.poll() is None
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 2
    process.kill()
    process.communicate()
    _, left = psutil.wait_procs(started, timeout=15)
    assert left == []
