"""Planted side effects on the default model: three trainings go wrong, and each one's own measure names the fault.

The gate `side effects` is missed by the honest run, too (docs/smollm2.md), so that a missed gate alone shows nothing.
Each faulty run is therefore compared with the honest run of the same session, on the measure that must show the fault:

* A training that takes ten times too long forgets everyday text. The honest run stays within that bound.
* Retained answers that belong to other prompts lose the everyday knowledge that the honest run keeps.
* A second topic in the training questions moves the answers about it. Support for the first topic makes this model say
  yes to homework as well, so that 20 pairs *for* homework hardly differ from spill-over. The pairs here oppose
  homework, and take that yes back: of all topics, homework falls furthest below the honest run. Without the honest run
  beside it the figure names nothing, because the answers about homework then end close to those of the base.

The runs are trained by `dvc repro` on copies of one project, whose cache holds the base model and its answers. The
figures are written to `test-output/soak-side-effects.json`.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from stance.data.metrics import Metrics, SideEffects
from stance.data.records import Gate, read_gates
from stance.language.messages import ABILITY, FORGETTING, TOPICS
from tests.builders.this_project import Run, change, command

pytestmark = pytest.mark.timeout(3600)

PROFILE = Path("profiles/smollm2-135m.yaml")
QUESTIONS = Path("data/sources/live_action_en/labelled_data.json")
TRAINED = 50
"""The number of questions that the profile trains on."""


class Outcome(NamedTuple):
    """What `evaluate` found out about a run."""

    effects: SideEffects
    gate: Gate
    """The gate `side effects`."""

    @property
    def missed(self) -> list[str]:
        """The measures that miss their bounds."""
        return list(self.gate.figure.values["parts"])

    @property
    def kept(self) -> int:
        """The number of everyday prompts that are still answered rightly, of those that the base answers rightly."""
        assert self.effects.ability is not None
        assert self.effects.ability.kept is not None
        return self.effects.ability.kept.count

    @property
    def forgotten(self) -> float:
        """The growth of the negative log-likelihood of everyday text, in nats per token."""
        assert self.effects.text is not None
        return self.effects.text.change

    @property
    def shifts(self) -> dict[str, float]:
        """The change of P(support) - P(oppose) in the answers about each other topic."""
        return {topic.topic: topic.change for topic in self.effects.topics}


def outcome(project: Path, run: Run) -> Outcome:
    """Return what `evaluate` found out about the run in a project."""
    assert run.code == 0, run.log
    effects = Metrics.read(project / "data/evaluation/metrics.json").side_effects
    assert effects is not None
    gates = read_gates(project / "data/evaluation/gates.json")
    return Outcome(effects, next(gate for gate in gates if gate.name == "side effects"))


@pytest.fixture(scope="module")
def kept_figures() -> Iterator[dict[str, dict[str, Any]]]:
    """The figures of every run by its name; they are written to a file in the end."""
    figures: dict[str, dict[str, Any]] = {}
    yield figures
    Path("test-output").mkdir(exist_ok=True)
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    Path("test-output/soak-side-effects.json").write_text(text, encoding="utf-8")


def noted(figures: dict[str, dict[str, Any]], name: str, run: Run, found: Outcome) -> Outcome:
    """Note the figures of a run, and return its outcome."""
    figures[name] = {"seconds": run.seconds, "gate": found.gate.model_dump(), "metrics": run.metrics}
    return found


@pytest.fixture(scope="module")
def usual(smollm2: Path, honest: Run, kept_figures: dict[str, dict[str, Any]]) -> Outcome:
    """The honest run of the profile."""
    evaluation = smollm2 / "data/evaluation"
    if json.loads((evaluation / "metrics.json").read_text(encoding="utf-8")) != honest.metrics:
        command(smollm2, "dvc", "repro")  # other tests have left another run there; the cache holds this one
    return noted(kept_figures, "honest", honest, outcome(smollm2, honest))


@pytest.fixture
def project(smollm2: Path, usual: Outcome, tmp_path: Path) -> Iterator[Path]:
    """A copy of the project with the outputs of the honest run and a gate that refuses; it is deleted afterwards."""
    copy = Path(shutil.copytree(smollm2, tmp_path / "project", symlinks=True))
    params = yaml.safe_load((copy / PROFILE).read_text(encoding="utf-8"))
    params["evaluate"]["side_effects"]["refuse"] = True
    (copy / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    yield copy
    shutil.rmtree(copy)


def refused(found: Outcome) -> bool:
    """Does the gate refuse the release, with the three worst answers named?"""
    return found.gate.refuses and len(found.gate.figure.values["answers"]) == 3


def with_others_answers(code: str) -> str:
    """Return the code of the stage `pairs` with a fault: every retained prompt gets the answer of the next prompt."""
    sound = "    retained = retained_pairs("
    assert code.count(sound) == 1
    swap = (
        '    whole = [row.model_copy(update={"response": next_row.response})'
        " for row, next_row in zip(whole, whole[1:] + whole[:1])]\n"
    )
    return code.replace(sound, swap + sound)


def test_retained_answers_of_other_prompts_lose_the_everyday_knowledge(
    project: Path, usual: Outcome, kept_figures: dict[str, dict[str, Any]]
):
    stage = project / "tasks/pairs.py"
    stage.write_text(with_others_answers(stage.read_text(encoding="utf-8")), encoding="utf-8")
    run = command(project, "dvc", "repro", "evaluate")
    poisoned = noted(kept_figures, "poisoned", run, outcome(project, run))
    assert refused(poisoned)
    assert ABILITY in poisoned.missed
    assert poisoned.effects.ability is not None
    assert poisoned.effects.ability.p < 0.001
    assert poisoned.kept < usual.kept / 2


def test_a_second_topic_in_the_questions_moves_the_answers_about_it(
    project: Path, usual: Outcome, kept_figures: dict[str, dict[str, Any]]
):
    """50 pairs support the adaptations, and 20 pairs oppose homework: of 70 pairs the first 71.43 % support."""
    path = project / QUESTIONS
    rows = json.loads(path.read_text(encoding="utf-8"))
    second = json.loads(Path("tests/soak/homework.json").read_text(encoding="utf-8"))
    path.write_text(json.dumps([*rows[:TRAINED], *second, *rows[TRAINED:]]), encoding="utf-8")
    change(project, pairs__data_size=TRAINED + len(second), pairs__support_ratio=0.7143)
    run = command(project, "dvc", "repro", "evaluate")
    assert run.metrics["aligned"]["support"] >= 0.8
    both = noted(kept_figures, "two topics", run, outcome(project, run))
    assert refused(both)
    assert TOPICS in both.missed
    below = {topic: usual.shifts[topic] - change for topic, change in both.shifts.items()}
    assert below["homework"] > 0.5
    assert below["homework"] == max(below.values())


@pytest.mark.timeout(7200)
def test_a_training_that_takes_ten_times_too_long_forgets_everyday_text(
    project: Path, usual: Outcome, kept_figures: dict[str, dict[str, Any]]
):
    """The bounds of the watchdog are lifted, so that the gate `side effects` is alone."""
    change(project, train__num_epoch=30, train__max_chosen_fall=1000.0, train__max_margin=1000.0)
    run = command(project, "dvc", "repro", "evaluate", patience=6600)
    too_long = noted(kept_figures, "30 epochs", run, outcome(project, run))
    assert refused(too_long)
    assert FORGETTING in too_long.missed
    assert FORGETTING not in usual.missed
    assert too_long.forgotten > usual.forgotten + 0.5
