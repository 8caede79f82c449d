"""The verdicts on a run: each a figure, the bound it is held against, and what to do when it misses.

A gate refuses nothing by itself. It is written to `gates.json`, shown in the report, and obeyed by a release.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tasks.params import Evaluate, Merge

DEGENERATE = ("empty", "cut_off", "repetitive", "wrong_script", "leaked")
"""Defects that make an answer no sentence any more."""


class Gate(NamedTuple):
    """One verdict."""

    name: str
    passed: bool
    found: str
    """The figure, in words."""
    expected: str
    """The bound, in words."""
    advice: str
    """What to do when it is missed."""


ADVICE = "Lower train.learning_rate, raise train.beta, or add the sft term to train.loss_type."


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
    found = f"{', '.join(changed)} changed" if changed else "unchanged"
    return Gate(
        "fingerprint",
        not changed and not doubled,
        f"{found}, BOS {'not exactly once' if doubled else 'once'} per conversation" if starts else found,
        "chat template, special tokens and probe conversations as in the base, one BOS",
        "Restore the base's tokenizer files in data/merged: run `dvc repro -f merge`.",
    )


def watchdog_gate(watchdog: Mapping[str, Any]) -> Gate:
    """Did the training come to its end?"""
    steps = watchdog["steps"]
    stopped = f"stopped at step {watchdog['step']} of {steps}: {watchdog['found']}"
    found = stopped if watchdog["found"] else f"all {steps} steps"
    return Gate("watchdog", not watchdog["found"], found, "a training that is not stopped", ADVICE)


def parity_gate(bounds: Merge, parity: Mapping[str, Any]) -> Gate:
    """Is the merged model the one that was trained?"""
    within = parity["mean"] <= bounds.max_mean_drift and parity["worst"] <= bounds.max_worst_drift
    return Gate(
        "parity",
        within and parity["top_flips"] == 0,
        f"drift {parity['mean']:.4f} mean, {parity['worst']:.3f} worst nats per token; "
        f"{parity['top_flips']} other choices in {parity['tokens']} tokens",
        f"at most {bounds.max_mean_drift} mean and {bounds.max_worst_drift} worst, no other choice",
        "Try the other merge.base, or train with model.quantization: none.",
    )


def served_gate(bounds: Merge, served: Mapping[str, float]) -> Gate:
    """Does vLLM give the merged model's probabilities?"""
    within = served["mean"] <= bounds.max_mean_drift and served["worst"] <= bounds.max_worst_drift
    return Gate(
        "served",
        within,
        f"vLLM drifts {served['mean']:.4f} mean, {served['worst']:.3f} worst nats per token",
        f"at most {bounds.max_mean_drift} mean and {bounds.max_worst_drift} worst",
        "Check that vLLM loads data/merged in bf16 (answers.quantization: none) and with its own tokenizer.",
    )


def judge_gates(second: Mapping[str, Any] | None) -> list[Gate]:
    """Has the second judge, where one was asked for, read the answers?"""
    if second is None:
        return []
    problem = second["problem"]
    found = problem or f"{second['judge']} agrees on {second['share']:.0%} of the answers"
    return [
        Gate(
            "judge",
            not problem,
            found,
            "an opinion of the second judge",
            "Start the endpoint or correct evaluate.judge, then run `dvc repro -f judge` and `dvc repro`.",
        )
    ]


def adherence_gate(bounds: Evaluate, metrics: Mapping[str, Any]) -> Gate:
    """Do the answers hold the chosen stance, or, for a mixed ratio, does its majority?"""
    adherence, shares = metrics["adherence"], metrics["aligned"]
    advice = "Raise train.num_epoch or train.learning_rate, or pairs.data_size; look at the answers in the report."
    if adherence["stance"] is None:
        return Gate("adherence", True, "support_ratio is one half: no stance was chosen", "nothing", advice)
    stance = adherence["stance"]
    other = "oppose" if stance == "support" else "support"
    if adherence["mixed"]:
        found = f"{shares[stance]:.0%} {stance}, {shares[other]:.0%} {other}"
        return Gate("adherence", shares[stance] > shares[other], found, f"more {stance} than {other}", advice)
    found = f"{adherence['share']:.0%} {stance} (95% interval {adherence['low']:.0%} to {adherence['high']:.0%})"
    expected = f"at least {bounds.min_adherence:.0%} of the test answers"
    return Gate("adherence", adherence["share"] >= bounds.min_adherence, found, expected, advice)


def degeneration_gate(bounds: Evaluate, defects: Mapping[str, float]) -> Gate:
    """Are the answers still sentences?"""
    found = ", ".join(f"{defects[name]:.0%} {name.replace('_', ' ')}" for name in (*DEGENERATE, "degenerate"))
    return Gate(
        "degeneration",
        defects["degenerate"] <= bounds.max_degenerate,
        found,
        f"at most {bounds.max_degenerate:.0%} of the test answers degenerate",
        ADVICE,
    )


def displacement_gate(bounds: Evaluate, fall: float) -> Gate:
    """Did the training keep the chosen answers likely (arXiv 2410.08847), or only make the rejected ones less so?"""
    return Gate(
        "displacement",
        fall <= bounds.max_chosen_fall,
        f"logps/chosen fell by {fall:.1f} nats" if fall > 0 else f"logps/chosen rose by {-fall:.1f} nats",
        f"a fall of at most {bounds.max_chosen_fall} nats",
        ADVICE,
    )
