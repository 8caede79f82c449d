"""Each verdict, passed and missed, on figures made by hand."""

import math
from typing import Any

import pytest

from stance.config.evaluation import Evaluate, NoJudge
from stance.config.training import Merge
from stance.data.chat import Fingerprint
from stance.data.metrics import Metrics, ServedDrift
from stance.data.noise import Floor
from stance.data.records import Gate, require
from stance.data.training import Drift, EarlyStop, Joint, Measured, Parity, Watchdog
from stance.evaluation.gates import (
    adherence_gate,
    classifier_gate,
    degeneration_gate,
    displacement_gate,
    fingerprint_gate,
    gates,
    joint_gates,
    parity_gate,
    served_gate,
    watchdog_gate,
)
from stance.language.messages import sentence
from stance.pages.purposes import PURPOSES
from tests.builders.figures import CLASSIFIER, figures, some

MERGE = Merge(base="measured")
FLOOR = Floor(mean=0.025, worst=0.125)
BOUNDS = Evaluate(judge=NoJudge(source="none"), min_adherence=0.8, max_degenerate=0.1, max_chosen_fall=10.0)
PARITY = Parity(base="original", mean=0.075, worst=0.75, top_flips=0, tokens=900, floor=FLOOR, candidates={})
FINGERPRINT = Fingerprint(
    chat_template_sha256="ab12",
    chat_template="{{ bos_token }}",
    bos_token_id=1,
    eos_token_id=2,
    probes=[[1, 5, 6], [1, 7], [1, 8, 2, 9]],
)
SOUND = {"empty": 0.0, "cut_off": 0.1, "repetitive": 0.1, "wrong_script": 0.0, "leaked": 0.0, "degenerate": 0.1}


def held(share: float, stance: str = "support") -> dict[str, Any]:
    """Return the blocks of a run in which this share of the answers holds the stance, and the others oppose it."""
    other = "oppose" if stance == "support" else "support"
    return {
        "aligned": {stance: share, "neutral": 0.0, other: 1 - share},
        "adherence": {
            "stance": stance,
            "mixed": False,
            "share": share,
            "low": 0.5,
            "high": 0.9,
            "count": 1,
            "total": 2,
        },
    }


def mixed(stance: str, **shares: float) -> dict[str, Any]:
    """Return the same of a run whose pairs prefer now one stance, now the other."""
    return {"aligned": shares, "adherence": {"stance": stance, "mixed": True, **some(0, 1)}}


def metrics(**blocks: Any) -> Metrics:
    """Return the figures of a run with these blocks."""
    return Metrics.model_validate(figures(**blocks))


def adherence_of(blocks: dict[str, Any]) -> Gate:
    run = metrics(**blocks)
    return adherence_gate(BOUNDS, run.adherence, run.aligned)


def test_an_unchanged_fingerprint_passes():
    gate = fingerprint_gate(FINGERPRINT, FINGERPRINT.model_copy())
    assert (gate.passed, sentence(gate.figure)) == (True, "unchanged, BOS once per conversation")


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"chat_template": "{{ bos_token }} "}, "chat_template changed"),
        ({"eos_token_id": 0}, "eos_token_id changed"),
        ({"probes": [[1, 5, 6], [1, 7], [1, 8, 3, 9]]}, "probes changed"),
        ({"chat_template": "", "chat_template_sha256": "cd"}, "chat_template_sha256, chat_template changed"),
    ],
)
def test_a_changed_fingerprint_misses_and_says_what_changed(changed, found):
    gate = fingerprint_gate(FINGERPRINT, FINGERPRINT.model_copy(update=changed))
    assert (gate.passed, sentence(gate.figure).split(", BOS")[0]) == (False, found)


def test_a_fingerprint_without_a_template_misses():
    assert not fingerprint_gate(FINGERPRINT, FINGERPRINT.model_copy(update={"chat_template": ""})).passed


@pytest.mark.parametrize("probes", [[[1, 1, 5, 6]], [[5, 6]], [[1, 5], [1, 5, 1]]])
def test_a_bos_that_is_not_there_exactly_once_misses_even_where_the_base_has_it_so(probes):
    same = FINGERPRINT.model_copy(update={"probes": probes})
    gate = fingerprint_gate(same, same)
    assert (gate.passed, sentence(gate.figure)) == (False, "unchanged, BOS not exactly once per conversation")


def test_a_model_without_bos_has_none_to_count():
    without = FINGERPRINT.model_copy(update={"bos_token_id": None, "probes": [[5, 6], [7]]})
    assert fingerprint_gate(without, without).passed


def test_parity_at_its_bounds_passes():
    gate = parity_gate(MERGE, PARITY)
    assert gate.passed
    assert sentence(gate.figure) == "drift 0.0750 mean, 0.750 worst nats per token; 0 other choices in 900 tokens"
    bound = "at most 0.0750 mean and 0.750 worst, by the measured noise of bf16, and no other choice"
    assert sentence(gate.bound) == bound


@pytest.mark.parametrize("worse", [{"mean": 0.076}, {"worst": 0.76}, {"top_flips": 1}, {"mean": float("nan")}])
def test_each_of_the_three_figures_can_miss_parity(worse):
    assert not parity_gate(MERGE, PARITY.model_copy(update=worse)).passed


def test_parity_is_held_to_the_noise_of_the_model_itself():
    """A drift that is noise in a large model is an error in a small one."""
    assert not parity_gate(MERGE, PARITY.model_copy(update={"floor": Floor(mean=0.001, worst=0.02)})).passed
    assert parity_gate(MERGE, PARITY.model_copy(update={"floor": Floor(mean=0.04, worst=0.2)})).passed
    assert not parity_gate(MERGE, PARITY.model_copy(update={"floor": None})).passed


@pytest.mark.parametrize(
    ("base", "advice"),
    [("original", "Set merge.base to measured"), ("measured", "The difference is more than rounding")],
)
def test_the_advice_on_a_missed_parity_fits_its_cause(base, advice):
    gate = parity_gate(Merge(base=base), PARITY.model_copy(update={"mean": 1.0}))
    assert sentence(gate.advice).startswith(advice)


@pytest.mark.parametrize(
    ("mean", "worst", "passed"), [(0.05, 0.5, True), (0.051, 0.5, False), (0.05, 0.51, False), (0.0, 0.0, True)]
)
def test_the_server_is_held_to_the_noise_of_two_engines(mean, worst, passed):
    assert served_gate(FLOOR, ServedDrift(mean=mean, worst=worst)).passed is passed


@pytest.mark.parametrize(("share", "passed"), [(0.75, False), (0.8, True), (1.0, True)])
@pytest.mark.parametrize("stance", ["support", "oppose"])
def test_adherence_at_the_ends_is_a_share_of_the_answers(stance, share, passed):
    gate = adherence_of(held(share, stance))
    assert gate.passed is passed
    assert sentence(gate.figure) == f"{share:.0%} {stance} (95% interval 50% to 90%)"
    assert sentence(gate.bound) == "at least 80% of the test answers"


def test_adherence_of_a_mixed_ratio_is_the_direction_of_its_majority():
    assert adherence_of(mixed("support", support=0.4, neutral=0.3, oppose=0.3)).passed
    assert not adherence_of(mixed("oppose", support=0.4, neutral=0.3, oppose=0.3)).passed
    assert not adherence_of(mixed("support", support=0.3, neutral=0.4, oppose=0.3)).passed
    gate = adherence_of(mixed("oppose", support=0.2, neutral=0.0, oppose=0.8))
    assert (gate.passed, sentence(gate.figure), sentence(gate.bound)) == (
        True,
        "80% oppose, 20% support",
        "more oppose than support",
    )


def test_a_ratio_of_one_half_asks_for_nothing():
    nothing = dict.fromkeys(("stance", *some(0, 1))) | {"mixed": True}
    assert adherence_of({"aligned": {"support": 1.0, "neutral": 0.0, "oppose": 0.0}, "adherence": nothing}).passed


def test_degeneration_counts_answers_that_are_no_sentences():
    assert degeneration_gate(BOUNDS, SOUND).passed
    gate = degeneration_gate(BOUNDS, SOUND | {"degenerate": 0.15})
    assert (gate.passed, sentence(gate.figure)) == (
        False,
        "0% empty, 10% cut off, 10% repetitive, 0% wrong script or language, 0% leaked, 15% degenerate",
    )


@pytest.mark.parametrize(
    ("fall", "passed", "found"),
    [
        (10.0, True, "fell by 10.0 nats"),
        (10.1, False, "fell by 10.1 nats"),
        (-3.0, True, "rose by 3.0 nats"),
        (math.nan, False, "is not a number"),
    ],
)
def test_displacement_allows_a_fall_up_to_its_bound(fall, passed, found):
    gate = displacement_gate(BOUNDS, fall)
    assert (gate.passed, sentence(gate.figure)) == (passed, f"logps/chosen {found}")


STOPPED = Watchdog(reason="logps/chosen has fallen by 40.0 nats, more than 15", step=7, steps=21)


def test_a_training_that_was_stopped_misses_and_says_at_which_step_and_why():
    gate = watchdog_gate(STOPPED)
    assert not gate.passed
    assert sentence(gate.figure) == "stopped at step 7 of 21: logps/chosen has fallen by 40.0 nats, more than 15"
    assert "train.learning_rate" in sentence(gate.advice)
    assert "train.beta" in sentence(gate.advice)
    assert watchdog_gate(Watchdog(reason=None, step=None, steps=21)).passed


@pytest.mark.parametrize(
    ("kept", "figure"),
    [
        (None, "all 21 steps; the drift on unrelated prompts is 0.400 nats per token, and train.max_drift is 0.3"),
        (
            10,
            "early stop at step 20 of 21, back to step 10: the drift on unrelated prompts was 0.400 nats per token, "
            "above train.max_drift, 0.3",
        ),
    ],
)
def test_an_early_stop_that_was_asked_for_passes_and_says_at_which_step_and_why(kept, figure):
    measured = [Measured(step=10, drift=0.2), Measured(step=20, drift=0.4)]
    early = EarlyStop(bound=0.3, measured=measured, kept=kept)
    gate = watchdog_gate(Watchdog(reason=None, step=None, steps=21, early_stop=early))
    assert gate.passed
    assert sentence(gate.figure) == figure
    assert sentence(gate.bound) == "a training that is stopped by nothing but train.max_drift"


def test_a_training_that_breaks_before_its_early_stop_misses():
    early = EarlyStop(bound=0.3, measured=[], kept=None)
    assert not watchdog_gate(STOPPED.model_copy(update={"early_stop": early})).passed


@pytest.mark.parametrize(("right", "passed"), [(54, True), (53, False)])
def test_the_classifier_gate_warns_below_nine_of_ten(right, passed):
    metrics = Metrics.model_validate(figures(classifier=CLASSIFIER | {"overall": some(right, 60)}))
    gate = classifier_gate(metrics.classifier)
    assert (gate.passed, gate.warning) == (passed, True)
    assert f"right on {right / 60:.0%} of the labelled answers" in sentence(gate.figure)
    require([gate], "not pushed")  # a warning refuses nothing


def every_gate_missed() -> list[Gate]:
    worse = {
        "served": {"mean": 1.0, "worst": 9.0},
        "judge": {"judge": "a model", "problem": "it does not answer"},
        "defects": {"base": SOUND, "aligned": SOUND | {"degenerate": 1.0}},
        "classifier": CLASSIFIER | {"overall": some(53, 60)},
        "chosen_fall": 99.0,
    }
    parity = PARITY.model_copy(update={"top_flips": 3})
    return [
        fingerprint_gate(FINGERPRINT, FINGERPRINT.model_copy(update={"bos_token_id": None, "probes": []})),
        *gates(MERGE, BOUNDS, metrics(**held(0.1), **worse), parity, STOPPED),
    ]


@pytest.mark.parametrize(
    ("defects", "advice"),
    [
        ({"cut_off": 0.8, "degenerate": 0.8}, "Raise answers.max_new_tokens"),
        ({"cut_off": 0.3, "repetitive": 0.2, "degenerate": 0.5}, "Raise answers.max_new_tokens"),
        ({"cut_off": 0.1, "repetitive": 0.4, "degenerate": 0.5}, "Lower train.learning_rate"),
    ],
)
def test_the_advice_on_degeneration_fits_its_cause(defects, advice):
    gate = degeneration_gate(BOUNDS, SOUND | {"cut_off": 0.0, "repetitive": 0.0} | defects)
    assert (gate.passed, sentence(gate.advice).startswith(advice)) == (False, True)


def test_no_gate_asks_for_a_longer_training_where_another_asks_for_a_gentler_one():
    watchdog = Watchdog(reason=None, step=None, steps=50)
    broken = metrics(**held(0.1), chosen_fall=99.0)
    advice = {gate.name: sentence(gate.advice) for gate in gates(MERGE, BOUNDS, broken, PARITY, watchdog)}
    assert advice["displacement"].startswith("Lower train.learning_rate")
    assert advice["adherence"].startswith("First do what the other missed gates say")
    weak = metrics(**held(0.1), chosen_fall=0.0)
    advice = {gate.name: sentence(gate.advice) for gate in gates(MERGE, BOUNDS, weak, PARITY, watchdog)}
    assert advice["adherence"].startswith("Raise train.num_epoch")


def test_no_gate_asks_for_a_longer_training_where_the_judge_is_often_wrong():
    classifier = {**CLASSIFIER, "overall": some(10, 20)}
    advice = {
        gate.name: sentence(gate.advice)
        for gate in gates(
            MERGE,
            BOUNDS,
            metrics(**held(0.1), chosen_fall=0.0, classifier=classifier),
            PARITY,
            Watchdog(reason=None, step=None, steps=50),
        )
    }
    assert advice["adherence"].startswith("First do what the other missed gates say")


def test_every_missed_gate_says_what_to_do():
    missed = every_gate_missed()
    assert [gate.name for gate in missed] == [
        "fingerprint",
        "watchdog",
        "parity",
        "served",
        "classifier",
        "judge",
        "adherence",
        "degeneration",
        "displacement",
    ]
    for gate in missed:
        assert not gate.passed
        assert sentence(gate.figure)
        assert sentence(gate.bound)
        assert sentence(gate.advice).endswith(".")


NO_NOISE = Floor(mean=0.001, worst=0.01)
SAME = Drift(mean=0.0, worst=0.0, top_flips=0, tokens=99)
OTHER = Drift(mean=0.5, worst=3.0, top_flips=0, tokens=99)


@pytest.mark.parametrize(
    ("joint", "outcomes", "named"),
    [
        (Joint(), [], ""),
        (Joint(reference=SAME, first_reward=0.0), [("joint", True)], "from sft to train"),
        (Joint(reference=OTHER, first_reward=0.0), [("joint", False)], "from sft to train"),
        (Joint(reference=SAME, first_reward=0.1), [("joint", False)], "the first reward is 0.100"),
        (Joint(reference=SAME, first_kl=0.0), [("joint", True)], "from sft to rl"),
        (Joint(reference=OTHER, first_kl=0.0), [("joint", False)], "from sft to rl"),
        (Joint(reference=SAME, first_kl=0.01), [("joint", False)], "the first KL divergence is 0.0100"),
        (Joint(reward=0.0), [("reward joint", True)], "from reward to rl"),
        (Joint(reward=0.01), [("reward joint", False)], "differ by up to 0.0100"),
        (Joint(engine=-0.01), [("engine", True)], "differ by up to -0.0100 nats per token"),
        (Joint(engine=-0.03), [("engine", False)], "differ by up to -0.0300 nats per token"),
        (
            Joint(reference=SAME, first_kl=0.0, reward=0.01),
            [("joint", True), ("reward joint", False)],
            "from sft to rl",
        ),
        (Joint(reference=SAME, first_reward=math.nan), [("joint", False)], "the first reward is nan"),
    ],
)
def test_a_joint_that_breaks_is_named(joint: Joint, outcomes: list[tuple[str, bool]], named: str):
    found = joint_gates(NO_NOISE, joint)
    assert [(gate.name, gate.passed) for gate in found] == outcomes
    assert named in "".join(sentence(gate.figure) for gate in found)
    if found:
        assert {gate.name for gate in found} <= set(PURPOSES)
        assert "and then `dvc repro`" in sentence(found[-1].advice)


def test_reinforcement_learning_has_no_gate_on_the_chosen_answers():
    names = [gate.name for gate in gates(MERGE, BOUNDS, metrics(chosen_fall=None), PARITY, STOPPED)]
    assert "displacement" not in names
    assert "degeneration" in names
