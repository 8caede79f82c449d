"""The figures that the benchmark makes of what it has timed; tests/soak/test_benchmarks.py runs it as a whole."""

from pathlib import Path

import pytest
import yaml

from benchmarks.course_run import AGAIN, STAGES, arguments, lengthened, summary
from benchmarks.peers.__main__ import command, figures, ratios
from benchmarks.peers.stopwatch import lengths
from benchmarks.whole_run import stage_seconds
from benchmarks.whole_run import summary as whole_summary


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


def test_a_stage_lasts_until_the_next_one_begins():
    """So DVC's hash of what a stage has written belongs to the stage. A stage that is restored does not run."""
    log = """    1.5  Running stage 'train':
    1.5  > tasks/python -m tasks.train
    9.0  Running stage 7 of 9
   10.25  Stage 'sft' is cached - skipping run, checking out outputs
   11.0  Running stage 'merge':
   20.5  Updating lock file 'dvc.lock'
"""
    assert stage_seconds(log, 21.0) == {"train": 9.5, "merge": 10.0}


def test_the_notebook_runs_again_as_a_whole_for_another_ratio():
    ours = {"1.0": {"seconds": 50.0}, "0.5": {"seconds": 20.0}}
    assert whole_summary(ours, {"import": 10.0, "train": 30.0}) == {
        "notebook": 40.0, "ours": 50.0, "ours_again": 20.0, "times_faster": 0.8, "times_faster_again": 2.0,
    }  # fmt: skip


def noted(made: float, ends: list[float]) -> dict:
    """What the stopwatch writes of a training that ends half a second after its last step."""
    losses = [0.6931] * (len(ends) - 1) + [0.5]
    return {"made": made, "steps": ends, "ended": ends[-1] + 0.5, "losses": losses, "tokens": [70, 82], "allocated": 7}


def test_the_first_steps_do_not_count_for_the_median():
    """Five steps of 9 s, which compile; then three that take 1, 3 and 2 s."""
    measured = figures(noted(100.0, [109.0, 118.0, 127.0, 136.0, 145.0, 146.0, 149.0, 151.0]))
    assert measured["step"] == 2.0
    assert measured["training"] == 51.5
    assert (measured["steps"], measured["tokens"], measured["longest"]) == (8, 76, 82)
    assert (measured["first_loss"], measured["last_loss"]) == (0.6931, 0.5)


def test_a_ratio_below_one_says_that_we_are_ahead():
    ours = {"process": 30.0, "training": 10.0, "step": 0.2, "gpu": 15}
    slower = {"process": 60.0, "training": 40.0, "step": 0.1, "gpu": 12}
    measured = ratios({"ours": ours, "slower": slower, "broken": {"failed": "exit 1"}})
    assert measured == {"slower": {"process": 0.5, "training": 0.25, "step": 2.0, "gpu": 1.25}}


def test_there_are_no_ratios_where_ours_has_failed():
    assert (
        ratios({"ours": {"failed": "exit 1"}, "peer": {"process": 1.0, "training": 1.0, "step": 1.0, "gpu": 1}}) == {}
    )


def test_a_text_is_as_long_for_each_way_to_keep_it():
    """A prompt of two tokens, and answers of three and of one."""
    apart = {"prompt_ids": [1, 2], "chosen_ids": [3, 4, 5], "rejected_ids": [6]}
    whole = {"chosen_input_ids": [1, 2, 3, 4, 5], "rejected_input_ids": [1, 2, 6]}
    assert lengths(apart) == lengths(whole) == [5, 3]


def test_answers_grow_by_as_many_characters_as_are_asked_for():
    row = {"prompt": "問", "support": "好的", "oppose": "不好", "neutral": "看情形"}
    grown = {"prompt": "問", "support": "好的好的好", "oppose": "不好不好不", "neutral": "看情形看情形"}
    assert lengthened(row, 3) == grown
    assert lengthened(row, 0) == row


def test_a_peer_sees_its_own_packages_and_none_of_ours():
    folder = Path("/scratch")
    measured = command("unsloth", folder, Path("/model"), folder / "out.json", "/packages", 60)
    assert f"PYTHONPATH=/packages:{Path.cwd()}" in measured
    assert measured[-2:] == ["/model", "/scratch/data/pairs/train.jsonl"]
    ours = command("ours", folder, Path("/model"), folder / "out.json", "", 60)
    assert ours[-len(arguments("train")) + 1 :] == arguments("train")[1:]
    assert not [word for word in ours if word.startswith("PYTHONPATH")]
