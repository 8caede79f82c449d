"""Teach the stance classifier of the data set, and measure how often it is right.

It depends on the data set, on the labelled answers about other topics and on the base model alone. So the runs of a
sweep share one, and the stages that judge answers read it.
"""

import logging
from pathlib import Path

from stance.config.params import Params
from stance.data.metrics import ACCURACY
from stance.data.questions import read_questions
from stance.errors import paths, run
from stance.evaluation.fitted import fit
from stance.models.base import Device

logger = logging.getLogger(__name__)


def classifier(device: Device, dataset: Path, corpora: Path, base: Path, out: Path) -> None:
    """Write the classifier and its `accuracy.json` to `out`.

    Args:
        device: Where the base model computes.
        dataset: `data/dataset`; its training questions teach the topic.
        corpora: Folder with labelled answers about other topics, by language; they teach the language.
        base: `data/base`; its hidden states judge answers that are not in Chinese.
        out: Receives `classifier.json`, `classifier.safetensors` and `accuracy.json`.

    Raises:
        InputError: The labelled answers or the base model are missing.
    """
    logger.info("teaching the judge; outside Chinese the base model reads each labelled answer, which takes a minute")
    fitted = fit(read_questions(dataset), corpora, base, device)
    accuracy = fitted.accuracy()
    fitted.classifier.write(out)
    accuracy.write(out / ACCURACY)
    right = accuracy.overall
    logger.info("right on %d of %d answers that it was not taught", right.count, right.total)


def main() -> None:
    """Run the stage: `python -m tasks.classifier DATASET CORPORA BASE OUT`."""
    arguments = paths(classifier)
    classifier(Params.load().model.device, *arguments)


if __name__ == "__main__":
    run(main)
