"""The judge of the chat page: the stance classifier that this folder's run has taught.

In: `data/classifier` and, for a data set that is not Chinese, the base model in `data/base`, of which the lower layers
are loaded. Out: the classifier.
"""

from pathlib import Path

from stance.data.metrics import ACCURACY, CLASSIFIER, ClassifierAccuracy
from stance.errors import InputError
from stance.evaluation.fitted import Classifier, read_classifier
from stance.language.translation import N_
from stance.models.base import locate

BASE = Path("data/base")
LARGEST = 2 * 2**30
"""Bytes of the largest base model that is loaded beside the endpoint."""
TOO_LARGE = N_("the judge reads the base model, which is too large to load it beside the endpoint")


def read() -> Classifier:
    """Return the classifier of this folder's run.

    Raises:
        InputError: The classifier or the base model is missing, or the base model is too large.
    """
    reads = ClassifierAccuracy.read(CLASSIFIER / ACCURACY).classifier
    if reads == "hidden_state" and size(locate(BASE)) > LARGEST:
        raise InputError(TOO_LARGE)
    return read_classifier(CLASSIFIER, BASE, "cpu")


def size(folder: Path) -> int:
    """Return the bytes of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
