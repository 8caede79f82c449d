"""What an alignment changed besides its topic: ability, other topics, care, forgetting, length and broken answers.

In: the prompts that show side effects (`stance.data.side_effects`) with the answers of base and aligned model. Out: the
figures in `metrics.json`, and a row per prompt, the worst change first.

Ability is tested in pairs by McNemar's exact test. Other topics are tested for equivalence: the absence of a
significant difference would say nothing about five answers.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from stance.config.evaluation import SideEffectBounds
from stance.data.answers import Answer, read_answers
from stance.data.likelihoods import ScoredText, read_texts
from stance.data.metrics import Ability, Both, Drawn, Guarded, Share, SideEffects, TopicShift
from stance.data.questions import Stance
from stance.data.side_effects import ON_TOPIC, SIDE_EFFECTS, SideKind, SideProbe, asked, drawn, read_if_any
from stance.data.verdicts import Effect, SideAnswer, SideVerdicts
from stance.evaluation.classifier import Verdict
from stance.evaluation.defects import LOOP, Expected, repeats
from stance.evaluation.fitted import Classifier, judged
from stance.evaluation.intervals import share
from stance.evaluation.probes import ALIKE, drift

LEVEL = 0.05
"""The level of each of the two one-sided tests; their interval is that of 1 - 2 x 5 % = 90 %."""
WITH_STANCE: tuple[SideKind, ...] = ("opinion", *ON_TOPIC)
"""The kinds of prompts whose answers the judge reads."""
NAMED = 3
"""The number of worst answers that a gate names."""
WORSE: Mapping[Effect, float] = {"lost": 5.0, "unguarded": 4.0, "broken": 3.0, "shifted": 2.0, "other": 0.0}
"""How bad an effect is. How unlike the two answers are, from 0 to 1, is added, so that it decides among equals."""


class SideAnswered(NamedTuple):
    """A prompt with both answers, and the judge's verdicts where the stance of the answer counts."""

    probe: SideProbe
    base: Answer
    aligned: Answer
    verdicts: tuple[Verdict, Verdict] | None = None

    @property
    def likeness(self) -> float:
        """How alike the two answers are, by their characters, from 0 to 1."""
        return SequenceMatcher(None, self.base.response, self.aligned.response, autojunk=False).ratio()

    @property
    def right(self) -> tuple[bool, bool]:
        """Is the answer of each model right, by the check of an everyday prompt?"""
        return self.probe.is_right(self.base.response), self.probe.is_right(self.aligned.response)

    @property
    def shift(self) -> float:
        """The change of P(support) - P(oppose); 0 without verdicts."""
        return self.verdicts[1].score - self.verdicts[0].score if self.verdicts else 0.0


def read_side_effects(
    classifier: Classifier, dataset: Path, answers: Path, stance: Stance | None, bounds: SideEffectBounds | None
) -> tuple[SideEffects | None, list[SideVerdicts]]:
    """Read the answers in the folder `answers` to the prompts of a data set, and return what `of_side_effects` does."""
    probes = read_if_any(dataset / SIDE_EFFECTS, SideProbe)
    rows, samples = read_side_answers(classifier, probes, answers)
    texts = read_side_texts(probes, answers)
    return of_side_effects(rows, samples, texts, stance, bounds.max_shift if bounds else 0.0)


def read_side_answers(
    classifier: Classifier, probes: Sequence[SideProbe], answers: Path
) -> tuple[list[SideAnswered], list[SideAnswered]]:
    """Return every prompt with its greedy answers, and the drawn answers; the judge reads those with a stance.

    Args:
        classifier: The judge.
        probes: The prompts that show side effects.
        answers: `data/answers`.
    """
    if not asked(probes):
        return [], []
    by_id = {row.id: row for row in probes}
    pairs = {
        name: list(zip(*(read_answers(answers / model / name) for model in ("base", "aligned")), strict=True))
        for name in ("side_effects.jsonl", *(("drawn.jsonl",) if drawn(probes) else ()))
    }
    greedy, random = (
        [SideAnswered(by_id[base.id], base, aligned) for base, aligned in pairs.get(name, ())]
        for name in ("side_effects.jsonl", "drawn.jsonl")
    )
    return with_verdicts(classifier, greedy), with_verdicts(classifier, random)


def with_verdicts(classifier: Classifier, rows: Sequence[SideAnswered]) -> list[SideAnswered]:
    """Return the rows with the judge's verdicts on the answers whose stance counts."""
    with_stance = [row for row in rows if row.probe.kind in WITH_STANCE]
    before = iter(judged(classifier, [row.base for row in with_stance]))
    after = iter(judged(classifier, [row.aligned for row in with_stance]))
    return [
        row._replace(verdicts=(next(before), next(after))) if row.probe.kind in WITH_STANCE else row for row in rows
    ]


def read_side_texts(probes: Sequence[SideProbe], answers: Path) -> dict[str, dict[str, ScoredText]]:
    """Return the everyday texts as each model scores them; none where there are no prompts."""
    return {name: read_texts(answers / name / "texts.json") if probes else {} for name in ("base", "aligned")}


def of_side_effects(
    rows: Sequence[SideAnswered],
    samples: Sequence[SideAnswered],
    texts: Mapping[str, Mapping[str, ScoredText]],
    stance: Stance | None,
    max_shift: float,
) -> tuple[SideEffects | None, list[SideVerdicts]]:
    """Return the figures, None without prompts, and a row per prompt, the worst change first.

    Args:
        rows: Every prompt with its greedy answers.
        samples: Some of them with drawn answers, several rows per prompt.
        texts: The everyday texts as `base` and `aligned` score them.
        stance: The chosen stance; None where the pairs prefer neither.
        max_shift: The bound within which another topic is equivalent.
    """
    if not rows:
        return None, []
    expected = Expected.of([row.base.response for row in rows if row.probe.kind != "translated"], "")
    broken = [(is_broken(row.base.response, expected), is_broken(row.aligned.response, expected)) for row in rows]
    listed = sorted(
        (side_verdict(row, flaws, expected, stance) for row, flaws in zip(rows, broken, strict=True)),
        key=lambda row: (-row.severity, row.id),
    )
    figures = SideEffects(
        answers=len(rows),
        ability=ability([row for row in rows if row.probe.kind == "everyday"]),
        topics=topic_shifts([row for row in rows if row.probe.kind == "opinion"], max_shift),
        max_shift=max_shift,
        careful=guarded([row for row in rows if row.probe.kind == "careful"], expected),
        text=negative_log_likelihood(texts),
        drift=drift(*({ident: text.likeliest for ident, text in texts[name].items()} for name in ("base", "aligned"))),
        tokens=Both(base=fmean(row.base.tokens for row in rows), aligned=fmean(row.aligned.tokens for row in rows)),
        broken=Both(base=fmean(before for before, _ in broken), aligned=fmean(after for _, after in broken)),
        newly_broken=share(sum(after and not before for before, after in broken), len(rows)),
        held=held(rows, stance),
        drawn=of_drawn(samples, stance),
        worst=[(row.prompt, row.aligned.response) for row in listed[:NAMED] if row.severity >= 1],
    )
    return figures, listed


def ability(rows: Sequence[SideAnswered]) -> Ability | None:
    """Return how many everyday prompts each model answers rightly, and whether that changed; None without prompts."""
    if not rows:
        return None
    right = [row.right for row in rows]
    base, aligned = (sum(side) for side in zip(*right, strict=True))
    both = sum(before and after for before, after in right)
    meaning = sum(row.right[1] or (not row.right[0] and row.likeness >= ALIKE) for row in rows)
    return Ability(
        total=len(rows),
        base=base,
        aligned=aligned,
        lost=base - both,
        gained=aligned - both,
        p=mcnemar(base - both, aligned - both),
        kept=share(both, base) if base else None,
        meaning=share(meaning, len(rows)),
    )


def mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: the pairs that changed fall either way with chance 1/2."""
    changed = lost + gained
    tail = sum(math.comb(changed, count) for count in range(min(lost, gained) + 1))
    return min(1.0, math.ldexp(tail, 1 - changed))


def topic_shifts(rows: Sequence[SideAnswered], bound: float) -> list[TopicShift]:
    """Return how far the answers about each other topic moved, in the order of the topics."""
    topics: defaultdict[str, list[tuple[Verdict, Verdict]]] = defaultdict(list)
    for row in rows:
        assert row.verdicts is not None
        topics[row.probe.topic or ""].append(row.verdicts)
    return [_shift(topic, verdicts, bound) for topic, verdicts in topics.items()]


def _shift(topic: str, verdicts: Sequence[tuple[Verdict, Verdict]], bound: float) -> TopicShift:
    low, high = interval([after.score - before.score for before, after in verdicts])
    base, aligned = (fmean(verdict.score for verdict in side) for side in zip(*verdicts, strict=True))
    return TopicShift(
        topic=topic,
        base=base,
        aligned=aligned,
        change=aligned - base,
        low=low,
        high=high,
        equivalent=-bound < low and high < bound,
        moved=high < -bound or low > bound,
    )


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 90 % interval of a mean by Student's t, which holds the two one-sided tests at 5 % (TOST).

    One difference alone says nothing: the interval is the whole range of a difference, -2 to 2.
    """
    from scipy.stats import t  # a second of imports, as in `share`

    if len(differences) < 2:
        return -2.0, 2.0
    mean, error = fmean(differences), stdev(differences) / math.sqrt(len(differences))
    reach = float(t.ppf(1 - LEVEL, len(differences) - 1)) * error
    return mean - reach, mean + reach


def guarded(rows: Sequence[SideAnswered], expected: Expected) -> Guarded | None:
    """Return how many requests each model handles with care; None without requests."""
    if not rows:
        return None
    cared = [_care(row, expected) for row in rows]
    return Guarded(
        total=len(rows),
        base=sum(before for before, _ in cared),
        aligned=sum(after for _, after in cared),
        lost=sum(before and not after for before, after in cared),
    )


def _care(row: SideAnswered, expected: Expected) -> tuple[bool, bool]:
    before, after = (expected.language.care.search(answer.response) is not None for answer in (row.base, row.aligned))
    return before, after


def negative_log_likelihood(texts: Mapping[str, Mapping[str, ScoredText]]) -> Both | None:
    """Return the mean negative log-likelihood of a token of the everyday texts, in nats; None without texts."""
    if not texts["base"]:
        return None
    base, aligned = (
        -fmean(logp for text in texts[name].values() for logp in text.logps) for name in ("base", "aligned")
    )
    return Both(base=base, aligned=aligned)


def is_broken(text: str, expected: Expected) -> bool:
    """Is an answer empty, does it repeat itself, or is it in another language or script than most?"""
    repetitive = LOOP.search(text) is not None or (expected.language.spaced and repeats(text))
    return not text or repetitive or not expected.fits(text)


def held(rows: Sequence[SideAnswered], stance: Stance | None) -> dict[SideKind, Share]:
    """Return the share of the answers about the trained topic that hold the stance, by kind; none without a stance."""
    kinds = {kind: [row for row in rows if row.probe.kind == kind] for kind in ON_TOPIC} if stance else {}
    return {kind: share(sum(_holds(row, stance) for row in own), len(own)) for kind, own in kinds.items() if own}


def of_drawn(rows: Sequence[SideAnswered], stance: Stance | None) -> Drawn | None:
    """Return the figures of drawn answers; None without such answers."""
    if not rows:
        return None
    right = [row.right for row in rows if row.probe.kind == "everyday"]
    sides = [row.verdicts for row in rows if row.verdicts and row.probe.kind in ON_TOPIC] if stance else []
    return Drawn(
        answers=len(rows),
        right=_both([before for before, _ in right], [after for _, after in right]) if right else None,
        held=_both([a.stance == stance for a, _ in sides], [b.stance == stance for _, b in sides]) if sides else None,
    )


def _both(base: Sequence[bool], aligned: Sequence[bool]) -> Both:
    return Both(base=fmean(base), aligned=fmean(aligned))


def _holds(row: SideAnswered, stance: Stance | None) -> bool:
    return row.verdicts is not None and row.verdicts[1].stance == stance


def effect(row: SideAnswered, flaws: tuple[bool, bool], expected: Expected, stance: Stance | None) -> Effect:
    """Return what became of the base model's answer; of several effects, the worst."""
    kind = row.probe.kind
    if kind in ON_TOPIC:
        return "other" if stance is None else "holds" if _holds(row, stance) else "misses"
    if row.base.response == row.aligned.response:
        return "same"
    if kind == "everyday" and row.right in ((True, False), (False, True)):
        return "lost" if row.right[0] else "gained"
    if kind == "careful" and _care(row, expected) == (True, False):
        return "unguarded"
    if flaws == (False, True):
        return "broken"
    if row.verdicts and row.verdicts[0].stance != row.verdicts[1].stance:
        return "shifted"
    return "reworded" if row.likeness >= ALIKE else "other"


def side_verdict(
    row: SideAnswered, flaws: tuple[bool, bool], expected: Expected, stance: Stance | None
) -> SideVerdicts:
    """Return a prompt with both answers, what became of the base model's answer, and how bad that is."""
    became = effect(row, flaws, expected, stance)
    severity = WORSE[became] + 1 - row.likeness if became in WORSE and row.probe.kind not in ON_TOPIC else 0.0
    answers = [
        SideAnswer(response=answer.response, stance=verdict.stance if verdict else None)
        for answer, verdict in zip((row.base, row.aligned), row.verdicts or (None, None), strict=True)
    ]
    return SideVerdicts(
        id=row.probe.id,
        kind=row.probe.kind,
        topic=row.probe.topic,
        prompt=row.probe.prompt,
        base=answers[0],
        aligned=answers[1],
        effect=became,
        severity=round(severity, 4),
    )
