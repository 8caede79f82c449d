"""Three adapters in one real engine: each answers as its merged model does, and a wrong one is told."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file, save_file

from flows.trials import far_from_merged
from stance.data.answers import read_answers
from stance.data.likelihoods import read_logps
from stance.data.metrics import METRICS, Metrics
from stance.data.trial import Trial
from stance.evaluation.measures import served_drift
from stance.runs.trials import against_merged
from tests.builders.aligned_project import Aligned

pytestmark = pytest.mark.timeout(600)

WEIGHTS = "data/adapter/adapter_model.safetensors"


class Tried(NamedTuple):
    """The workspaces of three runs that were tried together, and what was printed."""

    honest: Path
    doubled: Path
    again: Path
    printed: str


def double(adapter: Path) -> None:
    """Let an adapter change the base twice as much."""
    tensors = load_file(adapter)
    adapter.unlink()
    save_file({key: 2 * value if "lora_B" in key else value for key, value in tensors.items()}, adapter)


@pytest.fixture(scope="module")
def tried(aligned: Aligned, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """The aligned run; the same with an adapter that changes twice as much; and the first one again."""
    folder = tmp_path_factory.mktemp("tried")
    workspaces = [aligned.copy(folder / name) for name in ("honest", "doubled", "again")]
    double(workspaces[1] / "data/adapter/adapter_model.safetensors")
    printed = ""
    for step in ("answer", "judge"):
        command = [sys.executable, "-m", "stance.runs.trials", step, *map(str, workspaces)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        printed += done.stdout
    return Tried(*workspaces, printed)


def test_one_engine_answers_for_all_adapters(tried):
    assert tried.printed.count("starting the engine") == 1
    assert [line for line in tried.printed.splitlines() if line.startswith("adapter ")] == [
        "adapter 1 of 3: honest",
        "adapter 2 of 3: doubled",
        "adapter 3 of 3: again",
    ]


def test_the_engine_with_the_weights_of_an_adapter_is_the_merged_model_in_an_engine_of_its_own(tried):
    trial = against_merged(tried.honest)
    assert trial.within
    assert trial.merged.mean < trial.bounds.mean / 10
    assert Trial.read(tried.honest) == trial
    assert far_from_merged(tried.honest) is None
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
        read_logps(workspace / "data/trial/aligned/logps.json") for workspace in tried if isinstance(workspace, Path)
    )
    assert served_drift(first, again).worst < 1e-5
    assert served_drift(first, other).mean > 0.01


def test_a_merged_model_of_another_adapter_is_told(tried):
    sentence = far_from_merged(tried.doubled)
    assert sentence is not None
    assert sentence.startswith("the merged model is ")
    assert sentence.endswith("make all of them with MERGE=all")


def test_a_trial_leaves_the_outputs_of_a_run_alone(tried, aligned):
    for path in ("data/answers/aligned.jsonl", "data/answers/base/logps.json", "data/merge/parity.json"):
        assert (tried.honest / path).read_bytes() == (aligned.project / path).read_bytes()
    assert {path.name for path in (tried.honest / "data").iterdir()} == {
        "trial",
        *(path.name for path in (aligned.project / "data").iterdir()),
    }
