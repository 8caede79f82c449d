"""The whole pipeline as a person runs it: the default profile, from questions to report, and what a change reruns.

The run is a Prefect flow. tests/soak/test_training.py has what other ratios and settings make of it, and
tests/models/test_response.py has the same on a tiny model.
"""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.builders.aligned_project import Aligned
from tests.builders.pages import english, numbers
from tests.builders.this_project import Run, change, command

pytestmark = pytest.mark.timeout(1500)

ALL = {
    "dataset", "base", "classifier", "answers_base", "pairs", "sft", "sample", "reward", "rl", "train", "merge",
    "answers_aligned", "judge", "evaluate", "report",
}  # fmt: skip
BY_RATIO = ALL - {"dataset", "base", "classifier", "answers_base"}


@pytest.fixture(scope="module")
def project(aligned: Aligned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aligned.copy(tmp_path_factory.mktemp("end-to-end") / "project")


@pytest.fixture(scope="module")
def supporting(aligned: Aligned) -> Run:
    return aligned.run


@pytest.fixture(scope="module")
def again(project: Path) -> Run:
    return command(project, "dvc", "repro")


def test_flow_runs_every_stage_of_the_pipeline(supporting: Run):
    assert supporting.code == 0
    assert supporting.stages(r"^\s+ran  (\w+)$") == ALL


def test_base_answers_neutrally(supporting: Run):
    assert supporting.metrics["base"]["neutral"] >= 0.8


def test_ratio_1_makes_the_answers_support(supporting: Run):
    assert supporting.metrics["aligned"]["support"] >= 0.8


def test_a_paraphrase_of_a_test_prompt_gets_the_stance(supporting: Run):
    assert supporting.metrics["probes"]["paraphrase"]["count"] == 20
    assert supporting.metrics["probes"]["paraphrase"]["held"]["share"] >= 0.8


def test_the_report_says_how_many_unrelated_prompts_lose_their_answer_and_why(project: Path, supporting: Run):
    unrelated = supporting.metrics["probes"]["unrelated"]
    lost = unrelated["changes"]["stance"] + unrelated["changes"]["other"]
    assert (unrelated["count"], unrelated["kept"]["share"]) == (30, pytest.approx(1 - lost / 30))
    page = (project / "data/report/index.html").read_text(encoding="utf-8")
    assert f"Unrelated: {lost} of 30 do not keep the base model's answer." in page


def test_answers_are_sentences(project: Path, supporting: Run):
    assert supporting.metrics["defects"]["aligned"]["degenerate"] <= 0.1
    assert supporting.metrics["defects"]["base"]["degenerate"] <= 0.1


def test_every_gate_passes(supporting: Run):
    assert "MISSED" not in supporting.log


def test_second_repro_runs_nothing(again: Run):
    assert again.code == 0
    assert again.stages(r"^Stage '(\w+)' didn't change, skipping") == ALL
    assert not again.stages(r"^Running stage '(\w+)'")


def test_another_ratio_reruns_pairs_and_what_follows_only(project: Path, again: Run):
    change(project, pairs__support_ratio=0.0)
    planned = command(project, "dvc", "repro", "--dry", "--force-downstream")
    change(project, pairs__support_ratio=1.0)
    assert planned.stages(r"^Running stage '(\w+)'") == BY_RATIO


def test_responses_are_in_the_course_format(project: Path):
    with (project / "data/evaluation/responses.json").open(encoding="utf-8") as file:
        rows = json.load(file)
    assert len(rows) == 20
    keys = {"id", "prompt", "response_from_original_model", "response_from_trained_model"}
    assert all(row.keys() == keys for row in rows)


def test_report_shows_every_answer(project: Path):
    page = (project / "data/report/index.html").read_text(encoding="utf-8")
    rows = json.loads((project / "data/evaluation/responses.json").read_text(encoding="utf-8"))
    assert all(row["prompt"] in page and row["response_from_trained_model"] in page for row in rows)


def test_the_report_has_the_same_numbers_in_both_languages(project: Path):
    pages = [(project / f"data/report/{name}").read_text("utf-8") for name in ("index.html", "index.zh-TW.html")]
    assert numbers(pages[0]) == numbers(pages[1])
    assert english(pages[1]) == []


def test_failed_stage_ends_the_flow_with_its_name_and_reason(project: Path, again: Run, prefect_api: str):
    (project / "tasks/evaluate.py").write_text("import sys\nsys.exit('error: broken on purpose')\n")
    run = command(project, "flows.align", PREFECT_API_URL=prefect_api)
    subprocess.run(["git", "checkout", "-q", "tasks/evaluate.py"], cwd=project, check=True)
    assert run.code == 1
    assert "broken on purpose" in run.log
    assert "stage evaluate failed" in run.log


def test_unknown_parameter_ends_the_flow_before_any_stage(project: Path, again: Run, prefect_api: str):
    text = (project / "params.yaml").read_text()
    change(project, train={**yaml.safe_load(text)["train"], "bata": 0.1})
    run = command(project, "flows.align", PREFECT_API_URL=prefect_api)
    (project / "params.yaml").write_text(text)
    assert run.code == 1
    assert "train.bata: there is no such parameter" in run.log
    assert "Running stage" not in run.log
