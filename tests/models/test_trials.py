"""Adapters in one real engine: each answers as its merged model does, and a wrong or faulty one is told."""

import subprocess
import sys
from collections.abc import Callable
from math import nan
from pathlib import Path
from stat import S_IWUSR
from typing import NamedTuple

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from flows.trials import excess
from stance.data.answers import read_answers
from stance.data.likelihoods import read_logps
from stance.data.metrics import METRICS, Metrics
from stance.data.trial import PROBLEM, TRIAL, Trial
from stance.evaluation.measures import served_drift
from stance.runs.trials import against_merged, base_of
from tests.builders.aligned_project import Aligned

pytestmark = pytest.mark.timeout(600)


class Tried(NamedTuple):
    """The workspaces of the runs that were tried together, and what was printed."""

    honest: Path
    doubled: Path
    broken: Path
    strange: Path
    again: Path
    printed: str


def edit(adapter: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Replace the weights of an adapter."""
    tensors = load_file(adapter)
    adapter.unlink()
    save_file(change(tensors), adapter)


def doubled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: 2 * value if "lora_B" in key else value for key, value in tensors.items()}


def broken(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value * nan for key, value in tensors.items()}


def strange(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give it a layer that the base has not."""
    return {key.replace("layers.0.", "layers.99."): value for key, value in tensors.items()}


@pytest.fixture(scope="module")
def tried(aligned: Aligned, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """The aligned run; the same with an adapter that does twice as much, and with two bad ones; and the first again.

    The answers are judged twice, as after a kill.
    """
    folder = tmp_path_factory.mktemp("tried")
    workspaces = [aligned.copy(folder / name) for name in ("honest", "doubled", "broken", "strange", "again")]
    for workspace, faulty in zip(workspaces[1:4], (doubled, broken, strange), strict=True):
        edit(workspace / "data/adapter/adapter_model.safetensors", faulty)
    (workspaces[0] / "data/answers/base/logps.json").chmod(0o444)  # as DVC restores a file from its cache
    printed = ""
    for step in ("answer", "judge", "judge"):
        command = [sys.executable, "-m", "stance.runs.trials", step, *map(str, workspaces)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        printed += done.stdout
    return Tried(*workspaces, printed)


def test_one_engine_answers_for_all_sound_adapters_and_a_faulty_one_stops_no_other(tried):
    assert tried.printed.count("starting the engine") == 1
    assert [line for line in tried.printed.splitlines() if line.startswith("adapter ")] == [
        "adapter 1 of 3: honest",
        "adapter 2 of 3: doubled",
        "adapter 3 of 3: again",
    ]
    assert "values in base_model.model.model.layers.0" in (tried.broken / PROBLEM).read_text("utf-8")
    assert "the adapter changes model.layers.99." in (tried.strange / PROBLEM).read_text("utf-8")
    assert not any((workspace / TRIAL).exists() for workspace in (tried.broken, tried.strange))


def test_the_engine_with_the_weights_of_an_adapter_is_the_merged_model_in_an_engine_of_its_own(tried):
    trial = against_merged(tried.honest)
    assert trial.within
    assert trial.merged.mean < trial.bounds.mean / 10
    assert excess(trial) is None
    for path in ("aligned.jsonl", "aligned/probes.jsonl"):
        answers = [
            [row.response for row in read_answers(tried.honest / folder / path)]
            for folder in ("data/trial", "data/answers")
        ]
        assert sum(a == b for a, b in zip(*answers, strict=True)) >= 0.95 * len(answers[0])


def test_a_trial_finds_the_shares_that_the_whole_run_found(tried):
    metrics, trial = Metrics.read(tried.honest / METRICS), Trial.read(tried.honest)
    assert trial.aligned.model_dump() == pytest.approx(metrics.aligned.model_dump(), abs=0.05)
    assert trial.adherence.share == pytest.approx(metrics.adherence.share, abs=0.05)
    assert trial.side_effects is None
    assert metrics.side_effects is None  # the data set of the miniature has no such prompts


def test_an_adapter_leaves_nothing_behind_in_the_engine(tried):
    first, other, again = (
        read_logps(workspace / "data/trial/aligned/logps.json")
        for workspace in (tried.honest, tried.doubled, tried.again)
    )
    assert served_drift(first, again).worst < 1e-5
    assert served_drift(first, other).mean > 0.01


def test_a_merged_model_of_another_adapter_is_told(tried):
    sentence = excess(against_merged(tried.doubled))
    assert sentence is not None
    assert sentence.startswith("the merged model differs from the adapter that was tried by ")
    assert sentence.endswith("make all of them with MERGE=all")


def test_each_run_is_tried_on_the_weights_that_its_own_merge_may_take(aligned, tmp_path):
    params = (aligned.project / "params.yaml").read_text("utf-8")
    for base, expected in (("measured", "dequantized"), ("original", "original"), ("dequantized", "dequantized")):
        (tmp_path / "params.yaml").write_text(params.replace("base: measured", f"base: {base}"), encoding="utf-8")
        assert base_of(tmp_path) == expected


def test_a_trial_leaves_the_outputs_of_a_run_alone(tried, aligned):
    for path in ("data/answers/aligned.jsonl", "data/answers/base/logps.json", "data/merge/parity.json"):
        assert (tried.honest / path).read_bytes() == (aligned.project / path).read_bytes()
    assert (tried.honest / "data/trial/base/logps.json").stat().st_mode & S_IWUSR
    assert {path.name for path in (tried.honest / "data").iterdir()} == {
        "trial",
        *(path.name for path in (aligned.project / "data").iterdir()),
    }
