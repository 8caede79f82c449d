"""The figures of a run: shares, adherence, margins, rewards and drifts."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from sklearn.metrics import cohen_kappa_score

from stance.data.answers import Answer, Response, read_answers
from stance.data.likelihoods import Logps, read_likeliest, read_logps
from stance.data.metrics import (
    Adherence,
    Agreement,
    BothCorrected,
    Characters,
    ClassifierAccuracy,
    Defects,
    JudgeProblem,
    Margin,
    Margins,
    Reward,
    Rewards,
    ServedDrift,
    Shares,
)
from stance.data.preferences import Pair, one_way
from stance.data.questions import Probe, Stance
from stance.data.verdicts import AnswerVerdict, Opinion, PromptVerdicts
from stance.evaluation.classifier import Verdict
from stance.evaluation.correction import corrected_shares
from stance.evaluation.defects import defect_shares
from stance.evaluation.fitted import Classifier, judged
from stance.evaluation.intervals import share
from stance.evaluation.probes import Probed, drift

STANCES: tuple[Stance, ...] = get_args(Stance)


def of_answers(
    rows: Mapping[str, Sequence[Answer]],
    verdicts: Mapping[str, Sequence[Verdict]],
    flaws: Mapping[str, Sequence[set[str]]],
    accuracy: ClassifierAccuracy,
) -> dict[str, Any]:
    """Return the figures on what base and aligned model say: stances, length in characters and defects."""
    base, aligned = (corrected_shares(verdicts[name], accuracy) for name in ("base", "aligned"))
    return {
        **{name: shares(judged_answers) for name, judged_answers in verdicts.items()},
        "corrected": BothCorrected(base=base, aligned=aligned) if base and aligned else None,
        "classifier": accuracy,
        "characters": Characters(**{name: fmean(len(row.response) for row in texts) for name, texts in rows.items()}),
        "defects": Defects(**{name: defect_shares(defects) for name, defects in flaws.items()}),
    }


def of_likelihood(answers: Path, merge: Path, chosen: Mapping[str, Sequence[Pair]], beta: float) -> dict[str, Any]:
    """Return the figures on how likely base and aligned model find given texts."""
    logps = {name: read_logps(answers / name / "logps.json") for name in ("base", "aligned")}
    likeliest = {name: read_likeliest(answers / name / "likeliest.json") for name in ("base", "aligned")}
    return {
        "drift": drift(likeliest["base"], likeliest["aligned"]),
        "margin": margins(logps, chosen),
        "rewards": rewards(logps, chosen, beta),
        "served": served_drift(read_logps(merge / "logps.json"), logps["aligned"]),
    }


def probed(classifier: Classifier, probes: Sequence[Probe], answers: Path) -> list[Probed]:
    """Return every probe with both answers, judged."""
    if not probes:
        return []
    base, aligned = (read_answers(answers / name / "probes.jsonl") for name in ("base", "aligned"))
    return [
        Probed(probe, before.response, after.response, *verdicts)
        for probe, before, after, *verdicts in zip(
            probes, base, aligned, judged(classifier, base), judged(classifier, aligned), strict=True
        )
    ]


def shares(verdicts: Sequence[Verdict]) -> Shares:
    """Return the share of answers per stance."""
    counts = Counter(verdict.stance for verdict in verdicts)
    return Shares(**{stance: counts[stance] / len(verdicts) for stance in STANCES})


def agreement(opinion: Opinion, verdicts: Mapping[str, Sequence[Verdict]]) -> JudgeProblem | Agreement | None:
    """Return how far a second judge agrees with the one by wording; None where there is none.

    `share` is that of the answers on which both say the same, of those that the second could be read on, with Wilson's
    95 % interval; `kappa`, Cohen's, takes off what chance would give, and is null where both always say one thing.
    """
    if not opinion.judge:
        return None
    if opinion.problem:
        return JudgeProblem(judge=opinion.judge, problem=opinion.problem)
    pairs = [
        (first.stance, second)
        for name, stances in (("base", opinion.base), ("aligned", opinion.aligned))
        for first, second in zip(verdicts[name], stances, strict=True)
        if second
    ]
    ours, theirs = zip(*pairs, strict=True)
    single = len({*ours, *theirs}) == 1
    return Agreement(
        judge=opinion.judge,
        problem=None,
        **share(sum(a == b for a, b in pairs), len(pairs)).model_dump(),
        kappa=None if single else float(cohen_kappa_score(ours, theirs)),
        unread=sum(map(len, verdicts.values())) - len(pairs),
        base=_stances(opinion.base),
        aligned=_stances(opinion.aligned),
    )


def _stances(replies: Sequence[Stance | None]) -> Shares:
    read = [stance for stance in replies if stance]
    return Shares(**{stance: read.count(stance) / len(read) if read else 0.0 for stance in STANCES})


def adherence(verdicts: Sequence[Verdict], support_ratio: float) -> Adherence:
    """Return the share of answers that hold the stance most pairs prefer, with Wilson's 95 % interval.

    `support_ratio` is that of the pairs there are. At one half there is no such stance; between the ends it is that of
    the majority (`mixed`).
    """
    if support_ratio == 0.5:
        return Adherence(stance=None, mixed=True, share=None, low=None, high=None, count=None, total=None)
    stance: Stance = "support" if support_ratio > 0.5 else "oppose"
    held = share(sum(verdict.stance == stance for verdict in verdicts), len(verdicts))
    return Adherence(stance=stance, mixed=0 < support_ratio < 1, **held.model_dump())


def margins(logps: Mapping[str, Logps], chosen: Mapping[str, Sequence[Pair]]) -> Margins:
    """Return log p(support answer) - log p(oppose answer), in nats, over the questions of trained and held-out pairs.

    Unlike greedy answers it does not saturate. `held_out` is null where every question was trained on.
    """
    held_out = _margin(logps, chosen["held_out"]) if chosen["held_out"] else None
    return Margins(trained=_margin(logps, chosen["trained"]), held_out=held_out)


def _margin(logps: Mapping[str, Logps], pairs: Sequence[Pair]) -> Margin:
    ids = [str(pair.id) for pair in pairs]
    base, aligned = (fmean(_preference(logps[name][row]) for row in ids) for name in ("base", "aligned"))
    return Margin(base=base, aligned=aligned, change=aligned - base)


def rewards(logps: Mapping[str, Logps], chosen: Mapping[str, Sequence[Pair]], beta: float) -> Rewards:
    """Return DPO's implicit rewards of the served model: how often chosen beats the opposite answer, and by how much.

    The reward of an answer is beta (log p(answer) - log p_base(answer)), as in equation 5 of arXiv 2305.18290.
    The share has Wilson's 95 % interval, and `total` questions: each counts once, and not where it stands in both
    directions. Null where none is left, as of `held_out` where every question was trained on.
    """
    return Rewards(**{split: _reward(logps, one_way(pairs), beta) for split, pairs in chosen.items()})


def _reward(logps: Mapping[str, Logps], preferred: Mapping[str, Stance], beta: float) -> Reward | None:
    if not preferred:
        return None
    won = [beta * _moved(logps, row) * (1 if side == "support" else -1) for row, side in preferred.items()]
    return Reward(**share(sum(margin > 0 for margin in won), len(won)).model_dump(), margin=fmean(won))


def _moved(logps: Mapping[str, Logps], row: str) -> float:
    return _preference(logps["aligned"][row]) - _preference(logps["base"][row])


def _preference(sides: Mapping[str, Sequence[float]]) -> float:
    return sum(sides["support"]) - sum(sides["oppose"])


def served_drift(merged: Logps, served: Logps) -> ServedDrift:
    """Return how far vLLM's log-probabilities of the pair texts are from the merged model's, in nats per token."""
    differences = [
        abs(a - b)
        for row, sides in merged.items()
        for side, logps in sides.items()
        for a, b in zip(logps, served[row][side], strict=True)
    ]
    return ServedDrift(mean=fmean(differences), worst=max(differences))


def chosen_fall(log: Path, beta: float) -> float | None:
    """Return by how many nats the log-probability of the chosen answers fell, over the last third of the training.

    Every answer is compared with itself under the reference: `rewards/chosen` is beta times that difference. None for
    the log of a reinforcement learning, which reads no chosen answers.
    """
    with log.open(encoding="utf-8", newline="") as file:
        rewards = [float(row["rewards/chosen"]) for row in csv.DictReader(file) if "rewards/chosen" in row]
    if not rewards:
        return None
    return -fmean(rewards[-max(1, len(rewards) // 3) :]) / beta


def responses(base: Sequence[Answer], aligned: Sequence[Answer]) -> list[Response]:
    """Return both answers to every test prompt, in the course's own format."""
    return [
        Response(
            id=before.id,
            prompt=before.prompt,
            response_from_original_model=before.response,
            response_from_trained_model=after.response,
        )
        for before, after in zip(base, aligned, strict=True)
    ]


def prompt_verdicts(
    rows: Sequence[Answer], verdicts: Mapping[str, Sequence[Verdict]], flaws: Mapping[str, Sequence[set[str]]]
) -> list[PromptVerdicts]:
    """Return the judge's verdict on both answers to every test prompt, and their defects.

    Args:
        rows: The answers of either model; only their ids are used.
        verdicts: The verdicts on the answers of `base` and `aligned`, in the order of `rows`.
        flaws: The defects of these answers, in the same order.
    """
    base, aligned = (
        [
            AnswerVerdict(stance=verdict.stance, score=verdict.score, defects=sorted(defects))
            for verdict, defects in zip(verdicts[name], flaws[name], strict=True)
        ]
        for name in ("base", "aligned")
    )
    return [
        PromptVerdicts(id=row.id, base=before, aligned=after)
        for row, before, after in zip(rows, base, aligned, strict=True)
    ]
