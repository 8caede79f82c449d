"""Why a stage failed, as the log of DVC tells it."""

import pytest

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
