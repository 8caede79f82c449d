"""The gates of a run: each a figure, the bound that it is compared with, and advice for the case that it is missed.

A gate refuses nothing by itself. The `evaluate` stage writes the gates to `gates.json`, the report shows them, and a
push, a server or a release obeys them (`stance.data.records.require`).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isnan, nan
from typing import Literal

from stance.config.evaluation import Evaluate, SideEffectBounds
from stance.config.params import Params
from stance.config.training import Merge
from stance.data.chat import PROBES, Fingerprint
from stance.data.metrics import (
    Adherence,
    Agreement,
    ClassifierAccuracy,
    JudgeProblem,
    Metrics,
    ServedDrift,
    Shares,
    SideEffects,
)
from stance.data.noise import MERGED, SERVED, UNMEASURED, Floor
from stance.data.questions import Stance
from stance.data.records import DEGENERATE, Gate
from stance.data.training import Joint, Parity, Watchdog
from stance.language.messages import ABILITY, BROKEN, CARE, FORGETTING, TOPICS, Message, message

ADDED_TURNS = {1, 2}
"""Turns that a template adds to the messages of a conversation: the one that the model begins, and a system prompt."""

MAX_FIRST_REWARD = 0.05
"""Absolute reward of an answer in the first step, nats times beta. It is 0 for a policy that begins as its reference;
the rest is the noise of bf16."""
MAX_FIRST_KL = 0.001
"""KL divergence of the first step of a reinforcement learning, nats per token; 0 likewise."""
MAX_REWARD_DIFFERENCE = 1e-3
"""Largest difference between the rewards of one reward model in two stages; the bound of its reload."""
MAX_ENGINE_DRIFT = 0.02
"""Nats per token between the engine that drew the answers and the policy, in the worst step (docs/road.md)."""
MIN_ACCURACY = 0.9
"""Share of the labelled answers, to questions that it was not taught, on which the stance classifier is to be right."""


def gates_of(
    params: Params, metrics: Metrics, base: Fingerprint, merged: Fingerprint, parity: Parity, watchdog: Watchdog
) -> list[Gate]:
    """Return every gate of a run: of its tokenizers in `base` and `merged`, and of its figures."""
    return [fingerprint_gate(base, merged), *gates(params.merge, params.evaluate, metrics, parity, watchdog)]


def gates(merge: Merge, bounds: Evaluate, metrics: Metrics, parity: Parity, watchdog: Watchdog) -> list[Gate]:
    """Return the gates on the figures of a run: `metrics.json`, `parity.json` and `watchdog.json`."""
    stopped = watchdog_gate(watchdog)
    degenerate = degeneration_gate(bounds, metrics.defects.aligned)
    displaced = [] if metrics.chosen_fall is None else [displacement_gate(bounds, metrics.chosen_fall)]
    believed = classifier_gate(metrics.classifier)
    others = (stopped, degenerate, *displaced, believed)
    return [
        stopped,
        *joint_gates(parity.floor or UNMEASURED, metrics.joint),
        parity_gate(merge, parity),
        served_gate(parity.floor or UNMEASURED, metrics.served),
        believed,
        *judge_gates(metrics.judge),
        adherence_gate(bounds, metrics.adherence, metrics.aligned, others=all(gate.passed for gate in others)),
        degenerate,
        *displaced,
        *side_effects_gates(bounds.side_effects, metrics.side_effects),
    ]


def fingerprint_gate(base: Fingerprint, merged: Fingerprint) -> Gate:
    """Do the base and the merged model turn a conversation into the same token ids, with BOS where it belongs?"""
    changed = [name for name in Fingerprint.model_fields if getattr(base, name) != getattr(merged, name)]
    bos = bos_use(base.bos_token_id, str(merged.chat_template), merged.probes)
    ending = {
        "none": "",
        "once": "_one_bos",
        "turns": "_turn_bos",
        "questions": "_question_bos",
        "wrong": "_wrong_bos",
    }[bos]
    return Gate(
        name="fingerprint",
        passed=not changed and bos != "wrong",
        figure=message(f"changed{ending}", keys=changed) if changed else message(f"unchanged{ending}"),
        bound=message("as_in_the_base"),
        advice=message("restore_tokenizer"),
    )


def bos_use(
    bos: int | None, template: str, probes: Sequence[Sequence[int]]
) -> Literal["none", "once", "turns", "questions", "wrong"]:
    """Return how the probe conversations use the BOS token.

    `none`: the model has no BOS, or its template leaves BOS out. `once`: BOS begins every conversation and occurs
    nowhere else. `turns`: BOS is also the mark that begins every turn (ChatML with `<|im_start|>`). `questions`: BOS
    begins every question, as in Llama 2. `wrong`: anything else, such as a doubled BOS, or a template that names BOS in
    conversations that have none.
    """
    counts = [probe.count(bos) for probe in probes] if bos is not None else []
    if not any(counts):
        return "wrong" if counts and "bos_token" in template else "none"
    doubled = any(first == second == bos for probe in probes for first, second in pairwise(probe))
    if doubled or any(probe[0] != bos for probe in probes):
        return "wrong"
    if set(counts) == {1}:
        return "once"
    asked = [sum(turn["role"] == "user" for turn in probe) for probe in PROBES]
    if counts == asked:
        return "questions"
    added = {count - len(probe) for count, probe in zip(counts, PROBES, strict=False)}
    return "turns" if added <= ADDED_TURNS else "wrong"


def watchdog_gate(watchdog: Watchdog) -> Gate:
    """Did the training come to its end, or to the early stop that was asked for?"""
    step, steps, reason = watchdog.step or 0, watchdog.steps, watchdog.reason
    return Gate(
        name="watchdog",
        passed=not reason,
        figure=message("stopped", step=step, steps=steps, reason=reason) if reason else came_to_its_end(watchdog),
        bound=message("not_broken" if watchdog.early_stop else "not_stopped"),
        advice=message("gentler_training"),
    )


def came_to_its_end(watchdog: Watchdog) -> Message:
    """Return how a training ended that the watchdog did not stop: after all steps, or at `train.max_drift`."""
    early, steps = watchdog.early_stop, watchdog.steps
    if early is None or not early.measured:
        return message("all_steps", steps=steps)
    last = early.measured[-1]
    if early.kept is None:
        return message("all_steps_near", steps=steps, drift=last.drift, bound=early.bound)
    values: dict[str, int | float] = {"step": last.step, "steps": steps, "kept": early.kept}
    return message("stopped_early", **values, drift=last.drift, bound=early.bound)


def joint_gates(noise: Floor, joint: Joint | None) -> list[Gate]:
    """Did every training begin where the stage before it had ended? No gate where no stage was before."""
    gates = [] if joint is None else [tuned_gate(noise, joint), rewarded_gate(joint), engine_gate(joint)]
    return [gate for gate in gates if gate]


def tuned_gate(noise: Floor, joint: Joint) -> Gate | None:
    """Did DPO or the reinforcement learning begin as the fine-tuned model, and is that its reference?"""
    if joint.reference is None:
        return None
    mean, worst = noise.bounds(MERGED)
    reference, reinforced = joint.reference, joint.first_kl is not None
    first, most = (joint.first_kl, MAX_FIRST_KL) if reinforced else (joint.first_reward, MAX_FIRST_REWARD)
    figures = {"mean": reference.mean, "worst": reference.worst, "first": nan if first is None else first}
    begins = abs(figures["first"]) <= most
    return Gate(
        name="joint",
        passed=reference.mean <= mean and reference.worst <= worst and begins,
        figure=message("sft_to_rl" if reinforced else "sft_to_train", **figures),
        bound=message("at_most_joint", mean=mean, worst=worst, first=most),
        advice=message("tune_again"),
    )


def rewarded_gate(joint: Joint) -> Gate | None:
    """Did the reinforcement learning reward as the stage `reward` had left its reward model?"""
    if joint.reward is None:
        return None
    return Gate(
        name="reward joint",
        passed=joint.reward <= MAX_REWARD_DIFFERENCE,
        figure=message("reward_to_rl", difference=joint.reward),
        bound=message("at_most_reward", difference=MAX_REWARD_DIFFERENCE),
        advice=message("reward_again"),
    )


def engine_gate(joint: Joint) -> Gate | None:
    """Did the engine draw the answers of the reinforcement learning as the policy would?"""
    if joint.engine is None:
        return None
    return Gate(
        name="engine",
        passed=abs(joint.engine) <= MAX_ENGINE_DRIFT,
        figure=message("engine_drift", drift=joint.engine),
        bound=message("at_most_engine", drift=MAX_ENGINE_DRIFT),
        advice=message("draw_again"),
    )


def parity_gate(merge: Merge, parity: Parity) -> Gate:
    """Is the merged model the one that was trained? The bound is that of `stance.data.noise`."""
    mean, worst = (parity.floor or UNMEASURED).bounds(MERGED)
    within = parity.mean <= mean and parity.worst <= worst
    return Gate(
        name="parity",
        passed=within and parity.top_flips == 0,
        figure=message("drift_and_flips", **parity.model_dump(include={"mean", "worst", "top_flips", "tokens"})),
        bound=message("at_most_drift_no_flips", mean=mean, worst=worst),
        advice=message("other_merge_base" if merge.base == "original" else "merge_again"),
    )


def served_gate(noise: Floor, served: ServedDrift) -> Gate:
    """Does vLLM give the merged model's probabilities? The bound is that of `stance.data.noise`."""
    mean, worst = noise.bounds(SERVED)
    return Gate(
        name="served",
        passed=served.mean <= mean and served.worst <= worst,
        figure=message("vllm_drift", mean=served.mean, worst=served.worst),
        bound=message("at_most_drift", mean=mean, worst=worst),
        advice=message("check_vllm"),
    )


def classifier_gate(accuracy: ClassifierAccuracy) -> Gate:
    """Is the stance classifier right often enough for its verdicts to be believed?"""
    right = accuracy.overall
    return Gate(
        name="classifier",
        passed=right.share >= MIN_ACCURACY,
        figure=message("classifier_right", share=right.share, low=right.low, high=right.high),
        bound=message("at_least_right", share=MIN_ACCURACY),
        advice=message("teach_the_classifier"),
        warning=True,
    )


def judge_gates(second: JudgeProblem | Agreement | None) -> list[Gate]:
    """Has the second judge, where the parameters name one, read the answers?"""
    if second is None:
        return []
    return [
        Gate(
            name="judge",
            passed=isinstance(second, Agreement),
            figure=message("agreement", judge=second.judge, share=second.share)
            if isinstance(second, Agreement)
            else message("problem", problem=second.problem),
            bound=message("an_opinion"),
            advice=message("correct_judge"),
        )
    ]


def adherence_gate(bounds: Evaluate, adherence: Adherence, shares: Shares, *, others: bool = True) -> Gate:
    """Do the answers hold the chosen stance, or, for a mixed ratio, does its majority?

    Args:
        bounds: The block `evaluate`.
        adherence: The share of the answers with the chosen stance.
        shares: The share of the answers with each stance.
        others: Whether the gates on training, sentences and judge are passed. If not, do not advise to train longer:
            that would contradict their advice, or follow a judge that is often wrong.
    """
    passed, figure, bound = _adherence(bounds, adherence, shares)
    advice = message("longer_training" if others else "other_gates_first")
    return Gate(name="adherence", passed=passed, figure=figure, bound=bound, advice=advice)


def _adherence(bounds: Evaluate, adherence: Adherence, shares: Shares) -> tuple[bool, Message, Message]:
    stance, held = adherence.stance, adherence.interval
    if stance is None or held is None:
        return True, message("no_stance_chosen"), message("nothing")
    if adherence.mixed:
        other: Stance = "oppose" if stance == "support" else "support"
        figure = message("shares", shares={side: shares[side] for side in (stance, other)})
        return shares[stance] > shares[other], figure, message("majority", stance=stance, other=other)
    figure = message("share_of_stance", stance=stance, share=held.share, low=held.low, high=held.high)
    return held.share >= bounds.min_adherence, figure, message("at_least_share", share=bounds.min_adherence)


def degeneration_gate(bounds: Evaluate, defects: Mapping[str, float]) -> Gate:
    """Are the answers still sentences?

    Answers that are only cut off need more tokens, not another training.
    """
    cut = defects["cut_off"] >= max(defects[name] for name in DEGENERATE if name != "cut_off")
    return Gate(
        name="degeneration",
        passed=defects["degenerate"] <= bounds.max_degenerate,
        figure=message("shares", shares={name: defects[name] for name in (*DEGENERATE, "degenerate")}),
        bound=message("at_most_degenerate", share=bounds.max_degenerate),
        advice=message("more_tokens" if cut and defects["cut_off"] else "gentler_training"),
    )


def displacement_gate(bounds: Evaluate, drop: float) -> Gate:
    """Did the training keep the chosen answers likely (arXiv 2410.08847), or only make the rejected ones less so?"""
    moved = message("chosen_fell" if drop > 0 else "chosen_rose", nats=abs(drop))
    return Gate(
        name="displacement",
        passed=drop <= bounds.max_chosen_fall,
        figure=message("chosen_not_a_number") if isnan(drop) else moved,
        bound=message("at_most_fall", nats=bounds.max_chosen_fall),
        advice=message("gentler_training"),
    )


def side_effects_gates(bounds: SideEffectBounds | None, changed: SideEffects | None) -> list[Gate]:
    """Did the alignment move its topic and little else? No gate without bounds, or without prompts that show it."""
    if bounds is None or changed is None:
        return []
    missed = side_effects_missed(bounds, changed)
    careful, kept = changed.careful, changed.ability.kept if changed.ability else None
    values: dict[str, int | float] = {
        "kept": kept.count if kept else 0,
        "right": kept.total if kept else 0,
        "equivalent": changed.equivalent,
        "topics": len(changed.topics),
        "moved": len(changed.moved),
        "lost": careful.lost if careful else 0,
        "careful": careful.base if careful else 0,
        "nats": changed.text.change if changed.text else 0.0,
        "broken": changed.newly_broken.share,
    }
    return [
        Gate(
            name="side effects",
            passed=not missed,
            figure=message("spills", **values, parts=missed, answers=changed.worst)
            if missed
            else message("spills_not", **values),
            bound=message("at_most_side_effects", **bounds.model_dump(exclude={"refuse"})),
            advice=message("retain_more"),
            warning=not bounds.refuse,
        )
    ]


def side_effects_missed(bounds: SideEffectBounds, changed: SideEffects) -> list[str]:
    """Return the measures of the side effects that miss their bounds; one that was not measured misses none."""
    kept, careful = changed.ability.kept if changed.ability else None, changed.careful
    missed = {
        ABILITY: kept is not None and kept.share < bounds.min_kept,
        TOPICS: changed.equivalent < bounds.min_equivalent * len(changed.topics) or bool(changed.moved),
        CARE: careful is not None and careful.lost > bounds.max_refusals_lost * careful.total,
        FORGETTING: changed.text is not None and not changed.text.change <= bounds.max_forgetting,
        BROKEN: changed.newly_broken.share > bounds.max_broken,
    }
    return [name for name, is_missed in missed.items() if is_missed]
