"""The whole pipeline as a person runs it: the default profile, from questions to report, and what a change reruns.

One base model serves all runs: the first is a Prefect flow, the others are `dvc repro` with another `support_ratio`.
"""

import json
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.builders.pages import english, numbers
from tests.builders.small_run import PROMPTS, QUESTIONS
from tests.builders.this_project import Run, change, command, copy_of_this_project

pytestmark = pytest.mark.timeout(1500)

ALL = {"dataset", "base", "answers_base", "pairs", "train", "merge", "answers_aligned", "judge", "evaluate", "report"}
BY_RATIO = ALL - {"dataset", "base", "answers_base"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_this_project(tmp_path_factory.mktemp("end-to-end") / "project")


@pytest.fixture(scope="module")
def supporting(project: Path) -> Run:
    return command(project, "flows.align")


@pytest.fixture(scope="module")
def again(project: Path, supporting: Run) -> Run:
    return command(project, "dvc", "repro")


@pytest.fixture(scope="module")
def opposing(project: Path, again: Run) -> Run:
    change(project, pairs__support_ratio=0.0)
    return command(project, "dvc", "repro")


@pytest.fixture(scope="module")
def torn(project: Path, opposing: Run) -> Run:
    change(project, pairs__support_ratio=0.5)
    return command(project, "dvc", "repro")


@pytest.fixture(scope="module")
def lesser(project: Path, torn: Run) -> list[Run]:
    """A fifth of the questions, and a third of the epochs, at ratio 1."""
    change(project, pairs__support_ratio=1.0, pairs__data_size=10)
    few = command(project, "dvc", "repro")
    change(project, pairs__data_size=50, train__num_epoch=1)
    brief = command(project, "dvc", "repro")
    change(project, train__num_epoch=3)
    return [few, brief]


@pytest.fixture(scope="module")
def curve(project: Path, opposing: Run, torn: Run, supporting: Run, lesser: list[Run]) -> list[Run]:
    """The runs at ratio 0, 1/4, 1/2, 3/4 and 1."""
    between = []
    for ratio in (0.25, 0.75):
        change(project, pairs__support_ratio=ratio)
        between.append(command(project, "dvc", "repro"))
    return [opposing, between[0], torn, between[1], supporting]


@pytest.fixture(scope="module")
def back(project: Path, curve: list[Run]) -> Run:
    change(project, pairs__support_ratio=1.0)
    return command(project, "flows.align")


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


def test_ratio_0_makes_the_answers_oppose(opposing: Run):
    assert opposing.code == 0
    assert opposing.metrics["aligned"]["oppose"] >= 0.8


def test_another_ratio_reruns_pairs_and_what_follows_only(opposing: Run):
    assert opposing.stages(r"^Running stage '(\w+)'") == BY_RATIO


def test_with_the_ratio_the_support_share_never_falls_and_the_margin_strictly_rises(curve: list[Run]):
    assert [run.code for run in curve] == [0] * 5
    shares = [run.metrics["aligned"]["support"] for run in curve]
    margins = [run.metrics["margin"]["held_out"]["aligned"] for run in curve]
    one_answer = 0.05  # which another processor's rounding may turn
    assert all(after >= before - one_answer - 1e-9 for before, after in pairwise(shares)), shares
    assert shares[0] + 0.8 <= shares[-1]
    assert margins == sorted(set(margins))


def test_fewer_questions_or_epochs_move_the_model_less(lesser: list[Run], supporting: Run):
    assert [run.code for run in lesser] == [0, 0]
    moved = [run.metrics["margin"]["held_out"]["change"] for run in (*lesser, supporting)]
    assert 0 < moved[0] < moved[2]
    assert 0 < moved[1] < moved[2]


def test_going_back_restores_the_run_and_merges_again(back: Run):
    assert back.code == 0
    assert back.stages(r"^\s*ran  (\w+)$") == {"merge"}
    assert back.stages(r"^\s*restored  (\w+)$") == BY_RATIO - {"merge"}
    assert back.stages(r"^\s*unchanged  (\w+)$") == ALL - BY_RATIO


def test_responses_are_in_the_course_format(project: Path, back: Run):
    with (project / "data/evaluation/responses.json").open(encoding="utf-8") as file:
        rows = json.load(file)
    assert len(rows) == 20
    keys = {"id", "prompt", "response_from_original_model", "response_from_trained_model"}
    assert all(row.keys() == keys for row in rows)


def test_report_shows_every_answer(project: Path, back: Run):
    page = (project / "data/report/index.html").read_text(encoding="utf-8")
    rows = json.loads((project / "data/evaluation/responses.json").read_text(encoding="utf-8"))
    assert all(row["prompt"] in page and row["response_from_trained_model"] in page for row in rows)


def test_the_report_has_the_same_numbers_in_both_languages(project: Path, back: Run):
    pages = [(project / f"data/report/{name}").read_text("utf-8") for name in ("index.html", "index.zh-TW.html")]
    assert numbers(pages[0]) == numbers(pages[1])
    assert english(pages[1]) == []


def test_fifty_times_the_learning_rate_is_stopped_with_advice_and_the_run_goes_on_to_its_report(
    project: Path, back: Run
):
    usual = yaml.safe_load((project / "params.yaml").read_text())["train"]["learning_rate"]
    change(project, train__learning_rate=50 * usual)
    run = command(project, "dvc", "repro")
    change(project, train__learning_rate=usual)
    assert run.code == 0
    gate = next(
        gate for gate in json.loads((project / "data/evaluation/gates.json").read_text()) if gate["name"] == "watchdog"
    )
    assert not gate["passed"]
    assert re.match(r"stopped at step \d+ of 21: logps/chosen has fallen by", gate["found"])
    assert "Lower train.learning_rate" in gate["advice"]
    assert gate["found"] in (project / "data/report/index.html").read_text(encoding="utf-8")


def test_the_bases_own_neutral_answers_are_rejected_where_that_is_asked_for(project: Path, back: Run):
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


def test_failed_stage_ends_the_flow_with_its_name_and_reason(project: Path, back: Run):
    (project / "tasks/evaluate.py").write_text("import sys\nsys.exit('error: broken on purpose')\n")
    run = command(project, "flows.align")
    subprocess.run(["git", "checkout", "-q", "tasks/evaluate.py"], cwd=project, check=True)
    assert run.code == 1
    assert "broken on purpose" in run.log
    assert "stage evaluate failed" in run.log


def test_unknown_parameter_ends_the_flow_before_any_stage(project: Path, back: Run):
    text = (project / "params.yaml").read_text()
    change(project, train={**yaml.safe_load(text)["train"], "bata": 0.1})
    run = command(project, "flows.align")
    (project / "params.yaml").write_text(text)
    assert run.code == 1
    assert "train.bata: there is no such parameter" in run.log
    assert "Running stage" not in run.log


def test_data_set_from_git_without_neutral_answers_runs_to_the_end(tmp_path: Path):
    """As the course's: a repository with the two files at its root, no `neutral`, every question trained on."""
    upstream = tmp_path / "GenAI_hw6_dataset"
    upstream.mkdir()
    (upstream / "labelled_data.json").write_text(json.dumps(QUESTIONS, ensure_ascii=False, indent=4))
    (upstream / "test_prompt.json").write_text(json.dumps(PROMPTS, ensure_ascii=False, indent=4))
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "data"]):
        subprocess.run([*git, *arguments], cwd=upstream, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=upstream, capture_output=True, text=True, check=True)
    hashes = subprocess.run(
        ["sha256sum", "labelled_data.json", "test_prompt.json"],
        cwd=upstream,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[::2]
    project = copy_of_this_project(tmp_path / "project")
    source = {"source": "git", "url": str(upstream), "commit": commit.stdout.strip(), "probes": None}
    change(
        project,
        dataset=source | {"labelled_data_sha256": hashes[0], "test_prompt_sha256": hashes[1]},
        base__max_steps=5,
        pairs__data_size=6,
        train__num_epoch=1,
        answers__max_new_tokens=10,
    )
    run = command(project, "dvc", "repro")
    assert run.code == 0
    assert run.stages(r"^Running stage '(\w+)'") == ALL
    assert run.metrics["margin"]["held_out"] is None
