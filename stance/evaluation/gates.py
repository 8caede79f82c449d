"""The verdicts on a run: each a figure, the bound it is held against, and what to do when it misses.

A gate refuses nothing by itself. It is written to `gates.json`, shown in the report, and obeyed by whoever pushes,
serves or releases the model: `require`.
Its texts are in the language that is spoken when it is made: English, but for a page in another one.
"""

from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

from stance.config.evaluation import Evaluate
from stance.config.params import Params
from stance.config.training import Merge
from stance.data.records import Gate
from stance.language.translation import N_, _, listed, word
from stance.machine.files import read_json

DEGENERATE = ("empty", "cut_off", "repetitive", "wrong_script", "leaked")
"""Defects that make an answer no sentence any more."""
ADVICE = N_("Lower train.learning_rate, raise train.beta, or add the sft term to train.loss_type.")
JUDGE = N_("the base model")
"""What the second judge is called where it is that; another one has a name of its own."""


def gates_of(params: Params, metrics: Mapping[str, Any], base: Path, train: Path, merge: Path) -> list[Gate]:
    """Return every verdict on a run, from its figures and from what `base`, `train` and `merge` have written."""
    fingerprints = (read_json(folder / "fingerprint.json") for folder in (base, merge))
    parity, watchdog = read_json(merge / "parity.json"), read_json(train / "watchdog.json")
    return [fingerprint_gate(*fingerprints), *gates(params.merge, params.evaluate, metrics, parity, watchdog)]


def gates(
    merge: Merge, bounds: Evaluate, metrics: Mapping[str, Any], parity: Mapping[str, Any], watchdog: Mapping[str, Any]
) -> list[Gate]:
    """Return the verdicts on the figures of a run: `metrics.json`, `parity.json` and `watchdog.json`."""
    return [
        watchdog_gate(watchdog),
        parity_gate(merge, parity),
        served_gate(merge, metrics["served"]),
        *judge_gates(metrics["judge"]),
        adherence_gate(bounds, metrics),
        degeneration_gate(bounds, metrics["defects"]["aligned"]),
        displacement_gate(bounds, metrics["chosen_fall"]),
    ]


def fingerprint_gate(base: Mapping[str, Any], merged: Mapping[str, Any]) -> Gate:
    """Do the base and the merged model turn a conversation into the same token ids, with exactly one BOS?"""
    changed = [key for key in base if base[key] != merged.get(key)]
    starts = (
        [probe.count(base["bos_token_id"]) for probe in merged["probes"]] if base["bos_token_id"] is not None else []
    )
    doubled = any(count != 1 for count in starts)
    found = _("{keys} changed").format(keys=listed(changed)) if changed else _("unchanged")
    once = _("BOS not exactly once per conversation") if doubled else _("BOS once per conversation")
    return Gate(
        _("fingerprint"),
        not changed and not doubled,
        _("{one}, {other}").format(one=found, other=once) if starts else found,
        _("chat template, special tokens and probe conversations as in the base, one BOS"),
        _("Restore the base's tokenizer files in data/merged: run `dvc repro -s -f merge` and `dvc repro`."),
    )


def watchdog_gate(watchdog: Mapping[str, Any]) -> Gate:
    """Did the training come to its end?"""
    steps = watchdog["steps"]
    stopped = _("stopped at step {step} of {steps}: {found}").format(**watchdog)
    found = stopped if watchdog["found"] else _("all {steps} steps").format(steps=steps)
    return Gate(_("watchdog"), not watchdog["found"], found, _("a training that is not stopped"), _(ADVICE))


def parity_gate(bounds: Merge, parity: Mapping[str, Any]) -> Gate:
    """Is the merged model the one that was trained?"""
    within = parity["mean"] <= bounds.max_mean_drift and parity["worst"] <= bounds.max_worst_drift
    return Gate(
        _("parity"),
        within and parity["top_flips"] == 0,
        _(
            "drift {mean:.4f} mean, {worst:.3f} worst nats per token; {top_flips} other choices in {tokens} tokens"
        ).format(**parity),
        _("at most {max_mean_drift} mean and {max_worst_drift} worst, no other choice").format(**dict(bounds)),
        _("Try the other merge.base, or train with model.quantization: none."),
    )


def served_gate(bounds: Merge, served: Mapping[str, float]) -> Gate:
    """Does vLLM give the merged model's probabilities?"""
    within = served["mean"] <= bounds.max_mean_drift and served["worst"] <= bounds.max_worst_drift
    return Gate(
        _("served"),
        within,
        _("vLLM drifts {mean:.4f} mean, {worst:.3f} worst nats per token").format(**served),
        _("at most {max_mean_drift} mean and {max_worst_drift} worst").format(**dict(bounds)),
        _("Check that vLLM loads data/merged in bf16 (answers.quantization: none) and with its own tokenizer."),
    )


def judge_gates(second: Mapping[str, Any] | None) -> list[Gate]:
    """Has the second judge, where one was asked for, read the answers?"""
    if second is None:
        return []
    problem = second["problem"]
    found = problem or _("{judge} agrees on {share:.0%} of the answers").format(
        judge=_(second["judge"]), share=second["share"]
    )
    return [
        Gate(
            _("judge"),
            not problem,
            found,
            _("an opinion of the second judge"),
            _(
                "Start the endpoint or correct evaluate.judge, then run `dvc repro -s -f judge` and `dvc repro` in "
                "the run's folder."
            ),
        )
    ]


def adherence_gate(bounds: Evaluate, metrics: Mapping[str, Any]) -> Gate:
    """Do the answers hold the chosen stance, or, for a mixed ratio, does its majority?"""
    adherence, shares = metrics["adherence"], metrics["aligned"]
    name = _("adherence")
    advice = _("Raise train.num_epoch or train.learning_rate, or pairs.data_size; look at the answers in the report.")
    if adherence["stance"] is None:
        return Gate(name, True, _("support_ratio is one half: no stance was chosen"), _("nothing"), advice)
    stance = adherence["stance"]
    other = "oppose" if stance == "support" else "support"
    if adherence["mixed"]:
        found = listed(f"{shares[side]:.0%} {word(side)}" for side in (stance, other))
        expected = _("more {stance} than {other}").format(stance=word(stance), other=word(other))
        return Gate(name, shares[stance] > shares[other], found, expected, advice)
    found = _("{share:.0%} {stance} (95% interval {low:.0%} to {high:.0%})").format(
        **{**adherence, "stance": word(stance)}
    )
    expected = _("at least {min_adherence:.0%} of the test answers").format(**dict(bounds))
    return Gate(name, adherence["share"] >= bounds.min_adherence, found, expected, advice)


def degeneration_gate(bounds: Evaluate, defects: Mapping[str, float]) -> Gate:
    """Are the answers still sentences?"""
    found = listed(f"{defects[name]:.0%} {word(name)}" for name in (*DEGENERATE, "degenerate"))
    return Gate(
        _("degeneration"),
        defects["degenerate"] <= bounds.max_degenerate,
        found,
        _("at most {max_degenerate:.0%} of the test answers degenerate").format(**dict(bounds)),
        _(ADVICE),
    )


def displacement_gate(bounds: Evaluate, fall: float) -> Gate:
    """Did the training keep the chosen answers likely (arXiv 2410.08847), or only make the rejected ones less so?"""
    moved = _("logps/chosen fell by {nats:.1f} nats") if fall > 0 else _("logps/chosen rose by {nats:.1f} nats")
    return Gate(
        _("displacement"),
        fall <= bounds.max_chosen_fall,
        _("logps/chosen is not a number") if isnan(fall) else moved.format(nats=abs(fall)),
        _("a fall of at most {max_chosen_fall} nats").format(**dict(bounds)),
        _(ADVICE),
    )
