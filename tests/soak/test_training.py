"""What other settings make of the miniature, from pairs to report: ratios, fewer data, too high a rate, hard negatives.

tests/models has the same claims on a model of seconds.
"""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from stance.data.records import read_gates
from stance.language.messages import sentence
from tests.builders.aligned_project import Aligned
from tests.builders.this_project import STAGES, Run, change, command

BEFORE_PAIRS = {"dataset", "base", "classifier", "answers_base"}

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def project(aligned: Aligned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aligned.copy(tmp_path_factory.mktemp("training") / "project")


@pytest.fixture(scope="module")
def lesser(project: Path) -> list[Run]:
    """A fifth of the questions, and a third of the epochs, at ratio 1."""
    change(project, pairs__support_ratio=1.0, pairs__data_size=10)
    few = command(project, "dvc", "repro")
    change(project, pairs__data_size=50, train__num_epoch=1)
    brief = command(project, "dvc", "repro")
    change(project, train__num_epoch=3)
    return [few, brief]


@pytest.fixture(scope="module")
def curve(project: Path, lesser: list[Run], aligned: Aligned) -> list[Run]:
    """The runs at ratio 0, 1/4, 1/2, 3/4 and 1."""
    runs = []
    for ratio in (0.0, 0.25, 0.5, 0.75):
        change(project, pairs__support_ratio=ratio)
        runs.append(command(project, "dvc", "repro"))
    change(project, pairs__support_ratio=1.0)
    return [*runs, aligned.run]


@pytest.fixture(scope="module")
def back(project: Path, curve: list[Run], prefect_api: str) -> Run:
    """The run at ratio 1 again, as a flow."""
    return command(project, "flows.align", PREFECT_API_URL=prefect_api)


def test_fewer_questions_or_epochs_move_the_model_less(lesser: list[Run], aligned: Aligned):
    assert [run.code for run in lesser] == [0, 0]
    moved = [run.metrics["margin"]["held_out"]["change"] for run in (*lesser, aligned.run)]
    assert 0 < moved[0] < moved[2]
    assert 0 < moved[1] < moved[2]


def test_with_the_ratio_the_support_share_never_falls_and_the_margin_strictly_rises(curve: list[Run]):
    assert [run.code for run in curve] == [0] * 5
    shares = [run.metrics["aligned"]["support"] for run in curve]
    margins = [run.metrics["margin"]["held_out"]["aligned"] for run in curve]
    one_answer = 0.05  # which another processor's rounding may turn
    assert all(after >= before - one_answer - 1e-9 for before, after in pairwise(shares)), shares
    assert shares[0] + 0.8 <= shares[-1]
    assert margins == sorted(set(margins))


def test_ratio_0_makes_the_answers_oppose(curve: list[Run]):
    assert curve[0].metrics["aligned"]["oppose"] >= 0.8


def test_another_ratio_reruns_pairs_and_what_follows_only(curve: list[Run]):
    assert curve[0].stages(r"^Running stage '(\w+)'") == STAGES - BEFORE_PAIRS


def test_going_back_restores_the_run_and_merges_again(back: Run):
    assert back.code == 0
    assert back.stages(r"^\s*ran  (\w+)$") == {"merge"}
    assert back.stages(r"^\s*restored  (\w+)$") == STAGES - BEFORE_PAIRS - {"merge"}
    assert back.stages(r"^\s*unchanged  (\w+)$") == BEFORE_PAIRS


def test_fifty_times_the_learning_rate_is_stopped_with_advice_and_the_run_goes_on_to_its_report(
    project: Path, curve: list[Run]
):
    usual = yaml.safe_load((project / "params.yaml").read_text())["train"]["learning_rate"]
    change(project, train__learning_rate=50 * usual)
    run = command(project, "dvc", "repro")
    change(project, train__learning_rate=usual)
    assert run.code == 0
    gate = next(gate for gate in read_gates(project / "data/evaluation/gates.json") if gate.name == "watchdog")
    assert not gate.passed
    assert re.match(r"stopped at step \d+ of 21: logps/chosen has fallen by", sentence(gate.figure))
    assert "Lower train.learning_rate" in sentence(gate.advice)
    assert sentence(gate.figure) in (project / "data/report/index.html").read_text(encoding="utf-8")


def test_the_bases_own_neutral_answers_are_rejected_where_that_is_asked_for(project: Path, curve: list[Run]):
    change(project, pairs__rejected="base", pairs__order="both")
    run = command(project, "dvc", "repro")
    change(project, pairs__rejected="opposite", pairs__order="first")
    assert run.code == 0
    pairs = [json.loads(line) for line in (project / "data/pairs/train.jsonl").read_text("utf-8").splitlines()]
    own = [json.loads(line) for line in (project / "data/answers/base/questions.jsonl").read_text("utf-8").splitlines()]
    answered = {row["id"]: row["response"] for row in own}
    hard = [row for row in pairs if row["against"] == "neutral"]
    assert len(pairs) == 100
    assert len(hard) >= 80
    assert all(row["rejected"][0]["content"] == answered[row["id"]] for row in hard)
    assert run.metrics["aligned"]["support"] > run.metrics["base"]["support"]
