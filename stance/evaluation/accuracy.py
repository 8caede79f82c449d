"""How often a stance classifier is right, by labelled answers to questions that it was not taught.

In: pairs of the true stance and the stance found. Out: accuracy, accuracy by stance and confusion, with Wilson's 95 %
intervals.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from stance.data.metrics import ClassifierAccuracy
from stance.data.questions import Stance
from stance.evaluation.classifier import STANCES
from stance.evaluation.intervals import share


def accuracy_of(
    classifier: Literal["wording", "hidden_state"], layer: int | None, pairs: Iterable[tuple[Stance, Stance]]
) -> ClassifierAccuracy:
    """Return how often a classifier is right.

    Args:
        classifier: What it reads.
        layer: The layer whose hidden states it reads; None for a classifier by wording.
        pairs: The true stance and the stance found, of every labelled answer.
    """
    counts = Counter(pairs)
    totals = {true: sum(counts[true, found] for found in STANCES) for true in STANCES}
    return ClassifierAccuracy(
        classifier=classifier,
        layer=layer,
        overall=share(sum(counts[stance, stance] for stance in STANCES), counts.total()),
        by_stance={true: share(counts[true, true], totals[true]) for true in STANCES if totals[true]},
        confusion={true: {found: counts[true, found] for found in STANCES} for true in STANCES},
    )
