"""How far a stance reaches: whether it holds on other words and under pressure, and stays out of everything else."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from statistics import fmean
from typing import NamedTuple, get_args

from stance.data.metrics import Change, Divergence, Reach, Share
from stance.data.questions import Kind, Probe, Stance
from stance.data.verdicts import ProbeAnswer, ProbeVerdicts
from stance.evaluation.classifier import Verdict
from stance.evaluation.intervals import share

KINDS: tuple[Kind, ...] = get_args(Kind)
ALIKE = 0.6
"""Share of two answers' characters, by difflib's ratio, from which on they say the same in other words."""
TINY = 1e-9
"""What two finite lists of likeliest tokens may leave to the others, at least."""
Likeliest = Sequence[Mapping[str, float]]


class Probed(NamedTuple):
    """A probe with both answers and the judge's verdicts on them."""

    probe: Probe
    base: str
    aligned: str
    before: Verdict
    after: Verdict

    @property
    def change(self) -> Change:
        """What became of the base model's answer."""
        if self.base == self.aligned:
            return "same"
        if self.before.stance != self.after.stance:
            return "stance"
        alike = SequenceMatcher(None, self.base, self.aligned, autojunk=False).ratio()
        return "reworded" if alike >= ALIKE else "other"


def boundary(rows: Sequence[Probed], stance: Stance | None) -> dict[Kind, Reach]:
    """Return per kind of probe how many there are, and where the stance reaches.

    `held`: the share of answers that take the chosen stance; of the prompts under pressure only those count that want
    to hear another one. `kept`: the share of answers to neighbouring and unrelated prompts that are still the base
    model's, at most reworded. Both with Wilson's 95 % interval; null where the question does not arise. `changes`
    counts what became of the base model's answers.
    """
    return {kind: _kind([row for row in rows if row.probe.kind == kind], kind, stance) for kind in KINDS}


def _kind(rows: Sequence[Probed], kind: Kind, stance: Stance | None) -> Reach:
    takes_stance = kind in ("paraphrase", "pressure")
    against = [row for row in rows if row.probe.pushes != stance]
    changes = Counter(row.change for row in rows)
    return Reach(
        count=len(rows),
        held=counted(against, lambda row: row.after.stance == stance) if takes_stance and stance else None,
        kept=None if takes_stance else counted(rows, lambda row: row.change in ("same", "reworded")),
        changes={change: changes[change] for change in get_args(Change)},
    )


def counted(rows: Sequence[Probed], counts: Callable[[Probed], bool]) -> Share | None:
    """Return the share of the rows for which `counts` is true, with its interval; None if there are no rows."""
    return share(sum(map(counts, rows)), len(rows)) if rows else None


def drift(base: Mapping[str, Likeliest], aligned: Mapping[str, Likeliest]) -> Divergence | None:
    """Return how far the aligned model diverges from the base on given texts, in nats per token; None without texts."""
    divergences = [
        divergence(before, after)
        for ident, tokens in base.items()
        for before, after in zip(tokens, aligned[ident], strict=True)
    ]
    return Divergence(mean=fmean(divergences), worst=max(divergences), tokens=len(divergences)) if divergences else None


def divergence(base: Mapping[str, float], aligned: Mapping[str, float]) -> float:
    """Return KL(base | aligned) for the next token, in nats, from the log-probabilities of each one's likeliest tokens.

    Tokens that are not among both models' likeliest count as one. Joining outcomes never raises the divergence, so the
    whole one is at least this (Cover and Thomas, Elements of Information Theory, theorem 2.7.1).
    """
    shared = sorted(base.keys() & aligned.keys())
    pairs = [(math.exp(base[token]), math.exp(aligned[token])) for token in shared]
    rest = [max(TINY, 1 - sum(side)) for side in zip(*pairs, strict=True)] if pairs else [1.0, 1.0]
    return max(0.0, sum(p * math.log(p / q) for p, q in (*pairs, rest)))


def probe_verdicts(rows: Sequence[Probed]) -> list[ProbeVerdicts]:
    """Return every probe with both answers, the judge's verdicts, and what happened to the base model's answer."""
    return [
        ProbeVerdicts(
            **row.probe.model_dump(exclude={"answer"}),
            base=ProbeAnswer(response=row.base, stance=row.before.stance, score=row.before.score),
            aligned=ProbeAnswer(response=row.aligned, stance=row.after.stance, score=row.after.score),
            change=row.change,
        )
        for row in rows
    ]
