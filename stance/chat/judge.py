"""The judge of the chat page: the stance classifier of this folder's data set, taught in the background.

In: `data/dataset`, the labelled answers in `data/sources/stance/corpus` and, for a data set that is not Chinese, the
base model in `data/base`. Out: a future of the classifier. Teaching takes seconds to a minute, and the
page goes on meanwhile.
"""

from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from stance.data.questions import read_questions
from stance.errors import InputError
from stance.evaluation.fitted import Classifier, data_language, fit
from stance.language.translation import N_
from stance.models.base import locate

DATASET, CORPUS, BASE = Path("data/dataset"), Path("data/sources/stance/corpus"), Path("data/base")
LARGEST = 2 * 2**30
"""Bytes of the largest base model that is loaded beside the endpoint."""
TOO_LARGE = N_("the judge reads the base model, which is too large to load it beside the endpoint")


def start() -> "Future[Classifier]":
    """Teach the classifier in a thread that ends with the process, and return its future."""
    future: Future[Classifier] = Future()
    Thread(target=_teach, args=[future], daemon=True).start()
    return future


def _teach(future: "Future[Classifier]") -> None:
    try:
        future.set_result(teach())
    except Exception as error:  # whatever it is, the page goes on without the judge
        future.set_exception(error)


def teach() -> Classifier:
    """Return the classifier of this folder's data set.

    Raises:
        InputError: The data set or the base model is missing, or the base model is too large.
    """
    questions = read_questions(DATASET)
    if data_language(questions) != "zh_Hant" and size(locate(BASE)) > LARGEST:
        raise InputError(TOO_LARGE)
    return fit(questions, CORPUS, BASE, "cpu").classifier


def size(folder: Path) -> int:
    """Return the bytes of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
