"""Questions to preference pairs: which answer is chosen, which rejected, for how many questions.

The rule is the course's: of the first `data_size` questions, floor(`data_size` * `support_ratio`) prefer *support* and
the others *oppose*. `order` says which ones; the course takes the first, so that direction and row are confounded.
With an `offset` the first is another one, so that every question can be held out in its turn. Questions left over are
held out and follow the same rule. `rejected` says what the chosen answer is preferred to: the opposite one, or the base
model's own where it takes no stance, a harder negative. Retained pairs keep the base model's own answers to unrelated
prompts; they stand in a file of their own. Pairs are messages, never rendered text: whoever tokenizes them
applies the chat template once.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from stance.config.data import Pairs
from stance.config.models import Model
from stance.config.params import Params
from stance.data.answers import read_answers
from stance.data.pairs import directed, linted, preview, retained_pairs, split, training_pairs
from stance.data.preferences import Pair, write_pairs
from stance.data.questions import numbers_in_words, read_prompts, read_questions
from stance.data.records import write_warnings
from stance.errors import paths, run
from stance.evaluation.defects import is_whole
from stance.evaluation.fitted import neutral_answers, read_classifier
from stance.language.messages import sentence

logger = logging.getLogger(__name__)


def pairs(
    options: Pairs, model: Model, seed: int, dataset: Path, classifier: Path, base: Path, answered: Path, out: Path
) -> None:
    """Write `train.jsonl`, `eval.jsonl` (held out, perhaps empty), `retained.jsonl` and `lint.json` to `out`.

    Args:
        options: The block `pairs`.
        model: The block `model`; its system prompt stands before every question.
        seed: For the order `shuffled`.
        dataset: `data/dataset`.
        classifier: `data/classifier`, which finds the neutral answers of the base model.
        base: `data/base`; its hidden states judge answers that are not in Chinese.
        answered: Folder with the base model's answers to the training questions and to the unrelated prompts.
        out: Receives the four files.

    Raises:
        InputError: `data_size` or `offset` is beyond the data set, it is `strict` and the linter warns, or the base
            model gives too few whole answers to the unrelated prompts.
    """
    questions = read_questions(dataset)
    used, held_out = split(questions, options.data_size, options.offset)
    system_prompt = model.system_prompt
    neutral: dict[int, str] = {}
    if options.rejected == "base":
        own = read_answers(answered / "questions.jsonl")
        neutral = neutral_answers(read_classifier(classifier, base, model.device), own)
    train = training_pairs(used, options, system_prompt, seed, neutral)
    whole = list(filter(is_whole, read_answers(answered / "retained.jsonl"))) if options.retained else []
    retained = retained_pairs(whole, train, options.retained, system_prompt)
    warnings = linted(train, read_prompts(dataset), options, system_prompt, held_out)
    write_pairs(out / "train.jsonl", train)
    write_pairs(out / "eval.jsonl", directed(held_out, neutral, options, system_prompt, seed))
    write_pairs(out / "retained.jsonl", retained)
    write_warnings(out / "lint.json", warnings)
    preview(train)
    for warning in warnings:
        logger.info("lint: %s: %s (ids %s)", warning.check, sentence(warning.message), numbers_in_words(warning.rows))
    summary(options, train, len(held_out), len(retained))


def summary(options: Pairs, train: Sequence[Pair], held_out: int, retained: int) -> None:
    """Log how many pairs there are of each kind."""
    supported = sum(row.preferred == "support" for row in train)
    counts = (len(train), supported, len(train) - supported, held_out, retained)
    logger.info("%d pairs: %d prefer support, %d oppose; %d held out; %d retained besides", *counts)
    if options.rejected == "base":
        rejected = sum(row.against == "neutral" for row in train)
        logger.info(
            "%d of %d reject the base model's own answer; the others take a stance or are broken", rejected, len(train)
        )


def main() -> None:
    """Run the stage: `python -m tasks.pairs DATASET CLASSIFIER BASE ANSWERED OUT`."""
    arguments = paths(pairs)
    params = Params.load()
    pairs(params.pairs, params.model, params.seed, *arguments)


if __name__ == "__main__":
    run(main)
