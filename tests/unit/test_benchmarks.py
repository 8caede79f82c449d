"""The figures that the benchmark makes of what it has timed; tests/soak/test_benchmarks.py runs it as a whole."""

from pathlib import Path

import pytest
import yaml

from benchmarks.course_run import AGAIN, STAGES, arguments, summary


def test_a_stage_is_timed_by_the_command_that_dvc_runs():
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))
    left_out = {"sft", "sample", "reward", "rl"}  # in the course job, each leaves a note without Python
    assert set(STAGES) | left_out == pipeline["stages"].keys()
    assert not set(STAGES) & left_out
    assert all(arguments(name)[0] == "-m" for name in STAGES)


def test_totals_are_the_sums_of_their_parts():
    """Stages of 1 s, of which answering takes 2 s in 8 tokens and 1 s in 4; the notebook's ten prompts take 1 s."""
    seconds = dict.fromkeys(STAGES, 1.0) | {"answers_aligned": 2.0, "answers_aligned_4": 1.0, "answers_base_4": 1.0}
    phases = {
        "import": 1.0,
        "load": 2.0,
        "train": 3.0,
        "before_8": 4.0,
        "after_8": 1.0,
        "before_4": 2.0,
        "after_4": 1.0,
    }
    result = {
        "ours": {"costs": {name: {"seconds": value} for name, value in seconds.items()}, "losses": [0.7, 0.5]},
        "notebook": {"seconds": phases, "losses": [0.7, 0.52]},
        "padded": {"losses": [0.7, 0.49]},
    }
    totals = summary(result, (4, 8))
    assert totals["8"]["ours"] == len(STAGES) + 1
    assert totals["8"]["ours_again"] == len(AGAIN) + 1
    assert totals["8"]["notebook"] == 1 + 2 + 4 + 3 + 1
    assert totals["8"]["times_faster"] == pytest.approx(11 / (len(STAGES) + 1))
    assert totals["8"]["prompts_from_which_vllm_wins"] == 20
    assert (totals["4"]["ours"], totals["4"]["notebook"]) == (len(STAGES), 9)
    assert totals["worst_loss_difference"] == pytest.approx(0.02)
    assert totals["notebook_padded_from_notebook"] == pytest.approx(0.03)
