"""The judges of a reinforcement learning: the one in the reward, if any, and the independent ruler.

The ruler is never a part of the reward. Where the stance judge is rewarded, the two are taught by different questions,
and the ruler reads the hidden states of the base model. So in Chinese, where the rewarded judge reads the wording, they
also read different things. In other languages both read hidden states, and a hack may deceive both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stance.data.questions import Question
from stance.errors import InputError
from stance.evaluation.classifier import StanceClassifier, labelled_answers
from stance.evaluation.fitted import Classifier, data_language, fit, read_classifier, read_corpus
from stance.evaluation.hidden_state import HiddenStateClassifier, ModelReader
from stance.models.base import locate

LEAST = 4
"""Questions that a data set needs at least to teach two judges."""


class Judges(NamedTuple):
    """The judges of a reinforcement learning."""

    rewarded: Classifier | None
    """The stance judge in the reward; None if it is not a part of it."""
    ruler: Classifier
    name: str
    """The ruler in words."""


def judges(
    questions: Sequence[Question], corpora: Path, classifier: Path, base: Path, device: str, *, rewarded: bool
) -> Judges:
    """Return the judges of a reinforcement learning.

    Args:
        questions: The training questions of the data set.
        corpora: Folder with labelled answers about other topics.
        classifier: `data/classifier`, the ruler where the stance judge is not rewarded.
        base: `data/base`.
        device: `cpu` or `cuda`.
        rewarded: Whether the stance judge is a part of the reward.

    Raises:
        InputError: There are too few questions to teach two judges, or the classifier is missing.
    """
    if not rewarded:
        taught = read_classifier(classifier, base, device)
        kind = "wording" if isinstance(taught, StanceClassifier) else "hidden states"
        return Judges(None, taught, f"stance judge by {kind}")
    if len(questions) < LEAST:
        raise InputError(
            f"the data set has {len(questions)} questions, too few for a stance judge in the reward and another one "
            f"as the ruler; expected at least {LEAST}, or set rl.stance_judge_weight to 0"
        )
    corpus = read_corpus(corpora, data_language(questions))
    reader = ModelReader(locate(base), device)
    ruler, _ = HiddenStateClassifier.fit(reader, labelled_answers(questions[1::2]), corpus)
    judge = fit(questions[::2], corpora, base, device).classifier
    return Judges(judge, ruler, "stance judge by hidden states, taught by the other half of the questions")
