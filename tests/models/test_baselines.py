"""The notebook of the course and our training stage have the same losses, on the tiny model.

`tests/soak/test_benchmarks.py` runs the benchmark itself, with all stages, on 50 pairs.
"""

import csv
from pathlib import Path

from benchmarks.baselines import notebook
from benchmarks.course_run import apart, write_dataset, write_params
from stance.config.params import Params
from tasks.base import base
from tasks.pairs import pairs
from tests.builders.small_run import train_in

PAIRS = 16


def test_our_losses_equal_those_of_the_notebook_step_by_step(tiny_model: Path, tmp_path: Path):
    """One batch of 8 against 8 of 1 accumulated, in NF4, without dropout: 16 pairs x 3 epochs are 6 steps."""
    write_params(tmp_path, tiny_model, small=True, tokens=4, pairs__data_size=PAIRS)
    write_dataset(tmp_path / "dataset", PAIRS, 3)
    chosen = Params.load(tmp_path / "params.yaml")
    base(chosen.base, chosen.model.system_prompt, chosen.seed, tmp_path / "dataset", tmp_path / "base")
    nowhere = tmp_path / "unused"
    pairs(
        chosen.pairs, chosen.model, chosen.seed,
        tmp_path / "dataset", nowhere, tmp_path / "base", nowhere, tmp_path / "pairs",
    )  # fmt: skip
    train_in(tmp_path, chosen)
    theirs = notebook(tiny_model, tmp_path / "dataset", tmp_path / "pairs", [2])
    with (tmp_path / "adapter-log/log.csv").open(encoding="utf-8") as file:
        ours = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(ours) == 6
    assert apart(theirs["losses"], ours) < 1e-3
    assert {"import", "load", "train", "after_2"} <= theirs["seconds"].keys()
