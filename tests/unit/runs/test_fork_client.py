"""To whom the process belongs that stages are forked from, and what stages of one run have in common."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stance.runs.fork_client import OWNER, STAGE, address, common

ROOT = Path(__file__).parents[3]
ASK = f"PYTHONPATH={ROOT} {sys.executable} -c 'from stance.runs.fork_client import owner; print(owner())'"


def owner(**variables: str) -> str:
    """Ask in a shell of a shell, as `dvc` starts stages; `true` keeps a shell from replacing itself."""
    inherited = {name: value for name, value in os.environ.items() if name not in (OWNER, STAGE)}
    nested = f'sh -c "{ASK}; true"; true'
    return subprocess.check_output(["sh", "-c", nested], env=inherited | variables, text=True).strip()


def test_the_owner_is_the_process_that_started_the_stage():
    """It is the nearest one that is not itself part of a stage: here pytest, else `dvc`."""
    assert owner(**{STAGE: "dvc.yaml:train"}) == str(os.getpid())


def test_a_flow_names_itself_as_the_owner():
    assert owner(**{STAGE: "dvc.yaml:train", OWNER: "4711"}) == "4711"


def test_a_stage_by_hand_belongs_to_nobody():
    assert owner() == "None"


@pytest.mark.parametrize(
    ("variable", "same"), [("DVC_STAGE", True), ("CUDA_VISIBLE_DEVICES", True), ("OMP_NUM_THREADS", False)]
)
def test_only_variables_of_a_stage_may_differ(variable: str, same: bool):
    assert (common({"HOME": "/", variable: "1"}) == common({"HOME": "/", variable: "2"})) is same


def test_every_owner_and_interpreter_has_a_server_of_its_own(monkeypatch: pytest.MonkeyPatch):
    first = address(1)
    assert address(2) != first
    monkeypatch.setattr(sys, "executable", "/elsewhere/python")
    assert address(1) != first
