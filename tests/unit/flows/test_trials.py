"""Which runs share an engine for their adapters, and which adapter is the best."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from flows.trials import LOCKED, best, engine_of, require, trained, tried, try_all
from stance.data.metrics import Ability, Adherence, ServedDrift, Share, Shares, SideEffects
from stance.data.noise import Floor
from stance.data.trial import PROBLEM, Trial
from stance.errors import InputError
from stance.evaluation.intervals import share
from stance.machine.locks import exclusive
from stance.runs.record import Run, State

LOCK = {
    "base": [{"path": "data/base", "md5": "b.dir"}],
    "dataset": [{"path": "data/dataset", "md5": "d.dir"}],
    "train": [{"path": "data/adapter", "md5": "a.dir"}],
}
PARAMS = {"model": {"device": "cpu", "devices": 1}, "answers": {"max_new_tokens": 30}, "train": {"beta": 0.1}}


def workspace(folder: Path, params: dict[str, Any] = PARAMS, **outs: str) -> Path:
    """Write what decides the engine of a run; `outs` replaces hashes by the stage."""
    folder.mkdir(parents=True)
    stages = {
        stage: {"outs": [row | {"md5": outs.get(stage, row["md5"])} for row in rows]} for stage, rows in LOCK.items()
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    return folder


@pytest.mark.parametrize(
    ("changed", "shared"),
    [
        ({"params": PARAMS | {"train": {"beta": 0.5}}}, True),
        ({"train": "another.dir"}, True),
        ({"params": PARAMS | {"model": {"devices": 1, "device": "cpu"}}}, True),
        ({"base": "another.dir"}, False),
        ({"dataset": "another.dir"}, False),
        ({"params": PARAMS | {"model": {"device": "cuda", "devices": 1}}}, False),
        ({"params": PARAMS | {"answers": {"max_new_tokens": 60}}}, False),
    ],
)
def test_runs_share_an_engine_if_base_questions_and_decoding_are_the_same(tmp_path, changed, shared):
    one, other = workspace(tmp_path / "one"), workspace(tmp_path / "other", **changed)
    assert (engine_of(one) == engine_of(other)) is shared


def test_a_run_that_fine_tuned_all_weights_shares_its_engine_with_none(tmp_path):
    one, other = workspace(tmp_path / "one"), workspace(tmp_path / "other")
    (other / "data/sft/model").mkdir(parents=True)
    assert engine_of(one) != engine_of(other)


def trained_in(folder: Path, state: State) -> bool:
    Run(name="a", commit="0", snapshot="0", created=datetime.now(UTC), state=state).write(folder)
    return trained(folder)


def test_a_run_has_its_adapter_once_it_was_trained_and_not_while_it_trains(tmp_path):
    (tmp_path / "data/adapter").mkdir(parents=True)
    assert [state for state in get_args(State) if trained_in(tmp_path, state)] == ["trained", "completed"]
    (tmp_path / "data/adapter").rmdir()
    assert not trained_in(tmp_path, "completed")


def trial(held: int | None, right: int | None = None, adapter: str = "a.dir") -> Trial:
    """Return a trial in which `held` of 20 answers hold the stance and `right` of 10 right answers are kept."""
    share_held = share(held, 20).model_dump() if held is not None else dict.fromkeys(Share.model_fields)
    kept = None
    if right is not None:
        kept = SideEffects.model_construct(ability=Ability.model_construct(kept=share(right, 10)))
    return Trial.model_construct(
        adapter=adapter,
        base="original",
        aligned=Shares(support=0, neutral=1, oppose=0),
        adherence=Adherence(stance=None if held is None else "support", mixed=held is None, **share_held),
        side_effects=kept,
        merged=None,
        bounds=None,
    )


def test_an_adapter_is_tried_once_and_again_when_it_is_another_one(tmp_path):
    run = workspace(tmp_path / "run")
    assert not tried(run)
    (run / "data/trial").mkdir(parents=True)
    trial(18).write(run)
    assert tried(run)
    trial(18, adapter="an-earlier-one.dir").write(run)
    assert not tried(run)


def test_an_adapter_that_cannot_be_tried_is_a_problem_of_its_run_alone(tmp_path, monkeypatch):
    """One of two runs with the same engine has a faulty adapter; the engine of a third one does not start."""
    monkeypatch.chdir(tmp_path)
    faulty, sound = workspace(tmp_path / "faulty"), workspace(tmp_path / "sound")
    alone = workspace(tmp_path / "alone", base="another.dir")
    (faulty / PROBLEM).parent.mkdir(parents=True)
    (faulty / PROBLEM).write_text("its values are no numbers")
    asked = []

    def try_adapters(group: list[Path]) -> None:
        asked.append(group)
        if alone in group:
            raise RuntimeError("the trials failed: no memory")

    monkeypatch.setattr("flows.trials.try_adapters", try_adapters)
    assert try_all([alone, faulty, sound]) == {
        "alone": "the trials failed: no memory",
        "faulty": "its values are no numbers",
    }
    assert asked == [[alone], [faulty, sound]]


def test_two_sweeps_do_not_try_adapters_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with exclusive(LOCKED, ""), pytest.raises(InputError, match="another sweep tries adapters in this folder; wait"):
        try_all([])


@pytest.mark.parametrize(
    ("trials", "name"),
    [
        ({"a": trial(12), "b": trial(18), "c": trial(17)}, "b"),
        ({"a": trial(18, 4), "b": trial(18, 9), "c": trial(17, 10)}, "b"),
        ({"a": trial(18), "b": trial(18)}, "a"),
        ({"a": trial(None), "b": trial(0)}, "b"),
    ],
)
def test_the_best_holds_its_stance_most_and_of_equal_ones_keeps_more_right_answers(monkeypatch, trials, name):
    monkeypatch.setattr(Trial, "read", lambda folder: trials[folder.name])
    assert best(list(trials), Path(".runs")) == name


def test_where_no_run_prefers_a_stance_none_is_the_best(monkeypatch):
    monkeypatch.setattr(Trial, "read", lambda _: trial(None))
    assert best(["a", "b"], Path(".runs")) is None
    assert best([], Path(".runs")) is None


@pytest.mark.parametrize(
    ("mean", "worst", "within"), [(0.1, 1.0, True), (0.11, 0.5, False), (0.05, 1.1, False), (0.0, 0.0, True)]
)
def test_a_merged_model_is_near_if_both_mean_and_worst_token_are_within_the_noise(mean, worst, within):
    merged = trial(18).model_copy(
        update={"merged": ServedDrift(mean=mean, worst=worst), "bounds": Floor(mean=0.1, worst=1.0)}
    )
    assert merged.within is within
    assert trial(18).within  # not merged yet


@pytest.mark.parametrize(
    ("points", "on_pool", "reason"),
    [
        ([{"seed": 1}], True, "tried on the machine that trained them; leave out MERGE=best, or JOBS=pool"),
        ([{"seed": 1}, {"model.devices": 2}], False, "model.devices is 2, and MERGE=best .* needs 1; set it so"),
        (
            [{"model.device": "cuda", "answers.quantization": "bitsandbytes"}],
            False,
            "answers.quantization is bitsandbytes.* needs none",
        ),
    ],
)
def test_runs_that_no_engine_could_try_are_refused_before_anything_runs(points, on_pool, reason):
    require([{"seed": 1}], on_pool=False)
    with pytest.raises(InputError, match=reason):
        require(points, on_pool=on_pool)
