"""The default profile, from the package to an endpoint: SmolLM2-135M-Instruct at both ends, and what lies between.

The bars are those that a person would set for a model that was taught a stance: most of 20 unseen prompts are answered
with it, and less teaching moves the model less.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from stance.data.records import read_gates
from stance.machine.ports import free_port
from stance.runs.provenance import release_id
from tests.builders.repository import git
from tests.builders.this_project import Run, change, command
from tests.doubles.hub import Hub, serving
from tests.doubles.made_up import TOKEN

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def project(smollm2: Path) -> Path:
    return smollm2


@pytest.fixture(scope="module")
def first(honest: Run) -> Run:
    """The first run, at ratio 1."""
    return honest


@pytest.fixture(scope="module")
def curve(project: Path, first: Run) -> list[Run]:
    """The runs at ratio 0, 1/4, 1/2, 3/4 and 1."""
    runs = []
    for ratio in (0.0, 0.25, 0.5, 0.75):
        change(project, pairs__support_ratio=ratio)
        runs.append(command(project, "dvc", "repro"))
    change(project, pairs__support_ratio=1.0)
    return [*runs, first]


def test_the_default_run_ends_with_a_model_that_no_gate_refuses(project: Path, first: Run):
    assert first.code == 0
    assert first.metrics["aligned"]["support"] >= 0.8
    assert first.metrics["defects"]["aligned"]["degenerate"] <= 0.1
    gates = read_gates(project / "data/evaluation/gates.json")
    assert [gate.name for gate in gates if gate.refuses] == []
    assert [gate.name for gate in gates if gate.warns] == ["side effects"]  # docs/smollm2.md says how far it is off


def test_a_second_run_has_nothing_to_do(project: Path, first: Run):
    again = command(project, "dvc", "repro")
    assert again.stages(r"^Running stage '(\w+)'") == set()
    assert again.seconds <= 10


def test_with_the_ratio_the_stance_turns_step_by_step(curve: list[Run]):
    assert [run.code for run in curve] == [0] * 5
    shares = [run.metrics["aligned"]["support"] for run in curve]
    margins = [run.metrics["margin"]["held_out"]["aligned"] for run in curve]
    one_answer = 0.05
    assert curve[0].metrics["aligned"]["oppose"] >= 0.8
    assert all(after >= before - one_answer - 1e-9 for before, after in pairwise(shares)), shares
    assert margins == sorted(set(margins))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as double:
        double.readers.add(TOKEN)
        double.account(TOKEN, {"accessToken": {"displayName": "release", "role": "write"}})
        monkeypatch.setenv("HF_ENDPOINT", double.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield double


@pytest.fixture
def endpoint(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the endpoint that a release starts; it ends with the test."""
    port = free_port()
    monkeypatch.setenv("SERVE_PORT", str(port))
    yield f"http://127.0.0.1:{port}/v1"
    command(project, "stance", "serve", "stop")


def made(project: Path, ratio: str, api: str) -> Path:
    """Make a run in a workspace, of which all but the merge is in the cache, and return its folder."""
    before = set(project.glob(".runs/*/params.yaml"))
    run = command(project, "flows.align", "--ratio", ratio, PREFECT_API_URL=api)
    assert run.code == 0
    [params] = set(project.glob(".runs/*/params.yaml")) - before
    return params.parent


def test_the_model_is_pushed_served_asked_beside_its_base_swapped_and_rolled_back(
    project: Path, curve: list[Run], hub: Hub, endpoint: str, prefect_api: str
):
    change(project, hub={"push": True, "adapter_repo_id": "a/adapter", "merged_repo_id": "a/merged", "private": True})
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "push")
    supporting, opposing = (made(project, ratio, prefect_api) for ratio in ("1", "0"))
    for folder in (supporting, opposing):
        assert command(project, "flows.release", "--run", folder.name, PREFECT_API_URL=prefect_api).code == 0
        assert all(release_id(folder) in hub.repos[name].tags for name in ("a/adapter", "a/merged"))
    key = (project / ".serve/key").read_text().strip()
    client = {"OPENAI_BASE_URL": endpoint, "OPENAI_API_KEY": key}
    question = "Do live-action adaptations respect the original story?"
    assert release_id(opposing) in command(project, "stance", "serve", "status").log
    assert command(project, "stance", "serve", "rollback").code == 0
    assert release_id(supporting) in command(project, "stance", "serve", "status").log
    assert command(project, "stance", "serve", "swap", "--run", opposing.name, "--with-base").code == 0
    compared = command(project, "stance", "ask", "--compare", question, COLUMNS=str(120), **client)
    assert compared.code == 0
    assert {"base", "aligned"} <= set(compared.log.split())
    assert command(project, "stance", "ask", question, **client).code == 0
    change(project, hub={"push": False, "adapter_repo_id": None, "merged_repo_id": None, "private": True})


def test_fewer_questions_or_epochs_move_the_model_less(project: Path, curve: list[Run]):
    change(project, pairs__data_size=10)
    few = command(project, "dvc", "repro")
    change(project, pairs__data_size=50, train__num_epoch=1)
    brief = command(project, "dvc", "repro")
    change(project, train__num_epoch=3)
    moved = [run.metrics["margin"]["held_out"]["change"] for run in (few, brief, curve[-1])]
    assert 0 < moved[0] < moved[2]
    assert 0 < moved[1] < moved[2]


@pytest.mark.parametrize(("ratio", "stance"), [(1.0, "support"), (0.0, "oppose")])
def test_the_same_settings_turn_the_model_on_a_topic_that_they_were_not_chosen_on(
    project: Path, first: Run, ratio: float, stance: str
):
    change(
        project,
        dataset__path="data/sources/working_from_home",
        dataset__probes="data/sources/probes/working_from_home.json",
        pairs__support_ratio=ratio,
    )
    run = command(project, "dvc", "repro")
    assert run.code == 0
    assert run.metrics["aligned"][stance] > 0.5 > run.metrics["base"][stance]  # docs/smollm2.md has the shares
