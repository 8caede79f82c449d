"""The stages of the long road that a run leaves out, and the adapter that the last of them hands on."""

import csv
import json
import subprocess
from pathlib import Path

import pytest

from stance.data.handover import hand_over
from stance.data.reinforcement import Reinforcement, Stretch
from stance.data.road import NOTE, TEXT, leave_out
from stance.data.training import Joint, Watchdog
from stance.errors import InputError

ROOT = Path.cwd()
STRETCH = Stretch(reward=1, ruler=0.5, stance_share=0.75, kl=0.01, entropy=2, length=9)
RECORD = Reinforcement(
    algorithm="rloo", rewards={"reward_model": 1.0}, ruler="judge", steps=9, step=4, reason="it was hacked",
    kept_step=2, first_kl=0, first=STRETCH, last=STRETCH, kept=STRETCH,
)  # fmt: skip


def test_a_stage_that_is_left_out_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    leave_out(tmp_path / "sft")
    assert (tmp_path / "sft" / NOTE).read_text() == TEXT == capsys.readouterr().out


def start(folder: Path, params: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Start a program as `dvc.yaml` does, where there is no Python at all."""
    (folder / "tasks").mkdir()
    (folder / "tasks/python").write_bytes((ROOT / "tasks/python").read_bytes())
    (folder / "params.yaml").write_text(params)
    settings = {"PATH": "/usr/bin:/bin", "STANCE_PYTHON": "/nowhere/python"}
    command = ["/bin/sh", "tasks/python", "-m", *arguments]
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("stage", "params"),
    [
        ("sft", "sft: null\nalign:\n  method: rlhf\n"),
        ("sample", "sample: null\n"),
        ("reward", "reward: null\nalign:\n  method: rlhf\n"),
        ("reward", "align:\n  method: dpo\nreward:\n  r: 1\n"),
        ("rl", "align:\n  method: dpo\nrl:\n  r: 1\n"),
    ],
)
def test_a_stage_that_is_left_out_starts_no_python(stage: str, params: str, tmp_path: Path):
    ran = start(tmp_path, params, f"tasks.{stage}", "data/base", f"data/{stage}")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, TEXT, "")
    assert (tmp_path / "data" / stage / NOTE).read_text() == TEXT


@pytest.mark.parametrize(
    ("stage", "params"),
    [
        ("sft", "sft:\n  num_epoch: 1\n"),
        ("sft", "sft:\n  num_epoch: 1\nalign:\n  method: dpo\n"),
        ("sample", "sample:\n  draws: 4\n"),
        ("reward", "reward:\n  r: 1\nalign:\n  method: rlhf\n"),
        ("rl", "rl:\n  r: 1\nalign:\n  method: rlhf\nreward: null\n"),
        ("train", "train: null\nalign:\n  method: dpo\n"),
        ("sft", "{'sft': null}\n"),  # the stage itself reads it
    ],
)
def test_every_other_stage_starts_python(stage: str, params: str, tmp_path: Path):
    ran = start(tmp_path, params, f"tasks.{stage}", "data/base", f"data/{stage}")
    assert "there is no program /nowhere/python" in ran.stderr
    assert not (tmp_path / "data").exists()


@pytest.fixture
def reinforced(tmp_path: Path) -> Path:
    folder = tmp_path / "rl"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    (folder / "log.csv").write_text("step,reward\n1,0.5\n2,0.75\n")
    RECORD.write(folder / "rl.json")
    Joint(reward=0.0).write(folder / "joint.json")
    return folder


def test_the_adapter_and_its_log_are_those_of_the_training(reinforced: Path, tmp_path: Path):
    hand_over(reinforced, tmp_path / "adapter", tmp_path / "train")
    assert [path.read_bytes() for path in (tmp_path / "adapter").iterdir()] == [b"weights"]
    assert Watchdog.read(tmp_path / "train/watchdog.json") == Watchdog(reason="it was hacked", step=4, steps=9)
    assert json.loads((tmp_path / "train/metrics.json").read_text()) == {"step": 2, "reward": 0.75}
    assert Joint.read(tmp_path / "train/joint.json").reward == 0
    with (tmp_path / "train/log.csv").open(newline="") as file:
        assert [row["reward"] for row in csv.DictReader(file)] == ["0.5", "0.75"]


def test_without_a_record_nothing_is_handed_over(reinforced: Path, tmp_path: Path):
    (reinforced / "rl.json").write_text("{}")
    with pytest.raises(InputError, match=r"rl\.json"):
        hand_over(reinforced, tmp_path / "adapter", tmp_path / "train")
    assert not (tmp_path / "adapter").exists()
