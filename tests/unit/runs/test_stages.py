"""Why a stage failed, as the log of DVC tells it; and how long it holds its GPUs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stance.machine.devices import UNLISTED, holders, lease, visible
from stance.runs import stages
from stance.runs.stages import failure

AWAY = "ERROR: unexpected error - Could not connect to the endpoint URL: http://127.0.0.1:9/\n"
STOPPED = "Running stage 'train':\nerror: seed 13\nERROR: failed to reproduce 'train'\n"


@pytest.mark.parametrize(
    ("log", "pulling", "kind", "sentence"),
    [
        (AWAY, True, ConnectionError, "Could not connect to the endpoint URL: http://127.0.0.1:9/"),
        ("", True, ConnectionError, "`dvc repro train` exited with 255, see its log"),
        (AWAY, False, RuntimeError, "`dvc repro train` exited with 255, see its log"),
        (STOPPED, True, RuntimeError, "seed 13"),
        ("Running stage 'train':\nexited with 75\n", False, ConnectionError, "`dvc repro train` exited with 255"),
    ],
    ids=["the remote is away", "no word", "without a remote", "a stage", "a server of the stage"],
)
def test_a_remote_that_is_away_is_told_from_a_stage_that_failed(log, pulling, kind, sentence):
    error = failure("train", 255, log, pulling=pulling)
    assert type(error) is kind
    assert str(error).startswith(f"stage train failed: {sentence}")


@pytest.mark.parametrize(("forked", "held"), [(True, False), (False, True)])
def test_the_gpus_of_a_forked_stage_are_free_while_dvc_hashes(forked: bool, held: bool, tmp_path: Path):
    """The client of a forked stage prints its peak memory when the stage has ended."""
    command = f"echo {'peak memory 5 MiB' if forked else 'done'} && touch out"
    (tmp_path / "dvc.yaml").write_text(
        json.dumps({"stages": {"probe": {"cmd": command, "deps": ["in"], "outs": ["out"]}}})
    )
    (tmp_path / "in").touch()
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=tmp_path, check=True)
    seen: dict[str, bool] = {}
    with lease(1, "the run", print, tmp_path) as its:

        def look(line: str) -> None:
            seen[line.partition(" ")[0]] = bool(holders(visible() or [UNLISTED], tmp_path))

        assert stages.reproduce("probe", tmp_path, look, its) == "ran"
    assert seen["Running"]
    assert seen["Updating"] is held
