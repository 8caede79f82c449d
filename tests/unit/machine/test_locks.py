"""Stages take turns on the GPU, and a turn ends with whoever had it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from stance.config.profiles import compose
from stance.machine import devices
from stance.machine.devices import lease
from stance.machine.supervisor import guarded, release
from stance.runs.stages import needs_gpu


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name at most one GPU, however many this machine has."""
    if devices.listed():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")


HOLDER = """
import sys, time
from pathlib import Path
from stance.machine.devices import lease

with lease(1, "first (train)", print, Path(sys.argv[1])):
    print("has it", flush=True)
    time.sleep(600)
"""


def holder(lock: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", HOLDER, str(lock)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "has it\n"
    return process


def test_who_waits_says_for_whom_and_goes_on_when_the_holder_is_killed(tmp_path: Path):
    said, order = [], []
    first = holder(tmp_path)

    def second() -> None:
        with lease(1, "second (train)", said.append, tmp_path):
            order.append("second")

    waiting = threading.Thread(target=second)
    waiting.start()
    time.sleep(0.5)
    assert said == ["waiting for the GPU, which first (train) has"]
    assert order == []
    first.kill()
    first.communicate()
    waiting.join(timeout=10)
    assert order == ["second"]


def test_a_turn_lasts_until_the_stage_has_ended_although_its_flow_has(tmp_path: Path):
    said = []
    with lease(1, "a flow", said.append, tmp_path) as held:
        files = [file.fileno() for file in held.files]
        stage = guarded([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=files)
    threading.Timer(1, release, [stage]).start()
    began = time.monotonic()
    with lease(1, "another", said.append, tmp_path):
        assert time.monotonic() - began > 0.5
    assert said == ["waiting for the GPU, which a flow has"]


@pytest.mark.parametrize(
    ("stage", "wants"),
    [("sft", True), ("sample", False), ("reward", True), ("rl", True), ("train", False), ("merge", True)],
)
def test_a_stage_of_the_long_road_wants_a_turn_where_it_is_on_the_road(stage: str, wants: bool, tmp_path: Path):
    """The training only hands the adapter on."""
    values = compose("miniature-rlhf", {"model.device": "cuda"})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "dvc.yaml").write_bytes(Path("dvc.yaml").read_bytes())
    assert needs_gpu(stage, tmp_path) is wants
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values | {"align": {"method": "dpo"}, "sft": None}))
    assert needs_gpu(stage, tmp_path) is (stage in ("train", "merge"))


@pytest.mark.parametrize(
    ("profile", "stage", "wants"),
    [
        ("breeze-7b", "train", True),
        ("breeze-7b", "pairs", False),
        ("breeze-7b", "base", False),
        ("miniature", "train", False),
    ],
)
def test_the_stages_with_a_model_on_a_gpu_want_a_turn(profile: str, stage: str, wants: bool, tmp_path: Path):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(compose(profile)))
    (tmp_path / "dvc.yaml").write_bytes(Path("dvc.yaml").read_bytes())
    assert needs_gpu(stage, tmp_path) is wants
