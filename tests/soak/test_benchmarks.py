"""The benchmarks run as a whole on a narrow model, so that on a GPU only the size is new."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.course_run import STAGES


def run(module: str, *arguments: object) -> None:
    """Run a benchmark in its small mode."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments), "--small"]
    subprocess.run(command, check=True, timeout=900)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of Breeze's layers, narrow and few."""
    folder = tmp_path_factory.mktemp("benchmark") / "model"
    run("breeze_shape", folder)
    return folder


@pytest.fixture(scope="module")
def measured(model: Path) -> dict:
    out = model.parent / "out.json"
    run("course_run", model, out)
    return json.loads(out.read_text())


def test_our_losses_equal_those_of_the_notebook_step_by_step(measured: dict):
    """One batch of 8 against 8 of 1 accumulated, in NF4, without dropout: 50 pairs x 3 epochs are 21 steps."""
    assert len(measured["ours"]["losses"]) == 21
    assert measured["ours"]["losses"][-1] < measured["ours"]["losses"][0]
    assert measured["summary"]["worst_loss_difference"] < 1e-3


def test_every_answer_has_its_full_length(measured: dict):
    for limit in (4, 8):
        assert measured["ours"]["tokens"][str(limit)] == {"base": [limit] * 10, "aligned": [limit] * 10}


def test_every_stage_and_phase_is_timed(measured: dict):
    costs = measured["ours"]["costs"]
    assert {"base", "train", "merge", "answers_base", "answers_aligned", "answers_aligned_4"} <= costs.keys()
    assert all(cost["seconds"] > 0 for cost in costs.values())
    assert costs["train"]["host"] > 2**28  # torch alone is more
    assert {"import", "load", "train", "after_4", "after_8"} <= measured["notebook"]["seconds"].keys()


def test_totals_are_the_sums_of_their_parts(measured: dict):
    found, costs = measured["summary"]["8"], measured["ours"]["costs"]
    assert found["ours"] == pytest.approx(sum(costs[name]["seconds"] for name in STAGES))
    seconds = measured["notebook"]["seconds"]
    assert found["notebook"] == pytest.approx(sum(seconds[name] for name in ("import", "load", "train", "after_8")))
    assert found["times_faster"] == pytest.approx(found["notebook"] / found["ours"])


def test_a_whole_run_is_timed_beside_the_notebook(model: Path):
    """With another ratio, `dvc repro` runs no stage before the pairs."""
    out = model.parent / "whole.json"
    run("whole_run", model, out)
    found = json.loads(out.read_text())
    first, again = (found["ours"][ratio] for ratio in ("1.0", "0.5"))
    assert {"base", "classifier", "answers_base", "train", "report"} <= first["stages"].keys()
    assert {"pairs", "train", "merge", "answers_aligned", "evaluate", "report"} <= again["stages"].keys()
    assert not {"dataset", "base", "classifier", "answers_base"} & again["stages"].keys()
    assert sum(first["stages"].values()) < first["seconds"]
    assert found["summary"]["notebook"] == pytest.approx(sum(found["notebook"]["seconds"].values()))


def test_our_training_is_timed_beside_the_peers(tmp_path: Path):
    """Ours alone: the peers are not installed. 16 pairs in batches of 8 are 2 steps."""
    model, out = tmp_path / "model", tmp_path / "out.json"
    for arguments in (["breeze_shape", model], ["peers", model, out, "--jobs", "16x1"]):
        command = [sys.executable, "-m", f"benchmarks.{arguments[0]}", *map(str, arguments[1:]), "--small"]
        subprocess.run(command, check=True, timeout=900)
    found = json.loads(out.read_text())["jobs"]["16x1"]["measured"]["ours"]
    assert found["steps"] == 2
    assert found["first_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert 70 < found["tokens"] < 82
    assert 0 < found["step"] < found["training"] < found["process"]


@pytest.fixture(scope="module")
def shared(model: Path) -> dict:
    out = model.parent / "shared.json"
    adapter = model.parent / "adapter"
    run("shared_training", model, out, "--pairs", 16, "--epochs", 2, "--adapters", 2, "--keep", adapter)
    return json.loads(out.read_text())


def test_adapters_in_shared_batches_are_those_trained_alone(shared: dict):
    """Whole weights on a CPU: the sums are added in another order, and nothing else differs."""
    assert [row["ratio"] for row in shared["runs"]] == [1, 0]
    assert [len(losses) for losses in shared["losses"]["shared"]] == [4, 4]  # 16 pairs x 2 epochs in batches of 8
    for way in ("product", "shared", "padded", "split"):
        for differences in shared["apart"][way]:
            assert differences["update"] < 0.02
            assert max(differences["loss"], differences["margin"]) < 1e-3
    assert all(difference == 0 for row in shared["apart"]["again"] for difference in row.values())
    assert shared["sizes"].keys() == {"1", "2"}


def test_one_engine_answers_for_every_adapter_as_the_merged_model_does(model: Path, shared: dict):
    out = model.parent / "resident.json"
    run("resident_engine", model, model.parent / "adapter", out, "--adapters", 2)
    found = json.loads(out.read_text())["summary"]
    compared = found["comparisons"]
    assert found["within"]
    assert compared["adapter, merged"]["mean"] < compared["adapter, base"]["mean"] / 2
    assert compared["adapter, half of it"]["mean"] > 0
    assert compared["exchanged, merged"]["mean"] < compared["adapter, merged"]["mean"]
    for name in ("exchanged again", "adapter, loaded again", "base, after the adapters"):
        assert (compared[name]["worst"], compared[name]["equal"]) == (0, 20)
