"""Draw several answers to every training question with vLLM, for people or a model to rank.

The answers are drawn at a temperature from the fine-tuned model, or from the base without one. Each has a seed
of its own, and near-duplicates are dropped: a choice between two answers that say the same teaches nothing. The
log-probability of every token is kept, so that questions whose answers are close to each other can be ranked first.
Without the block `sample` the stage leaves a note.
"""

from pathlib import Path

from stance.config.evaluation import Answers
from stance.config.models import Model
from stance.config.params import Params
from stance.config.road import Sample
from stance.data.road import leave_out
from stance.errors import paths, run


def sample(
    model: Model, answers: Answers, options: Sample | None, seed: int, base: Path, tuned: Path, dataset: Path, out: Path
) -> None:
    """Write the sampled answers to `samples.jsonl`, one row per training question.

    Args:
        model: Device and system prompt.
        answers: The block `answers`: how long an answer may be, and how vLLM works.
        options: The block `sample`; None leaves the drawing out.
        seed: Decides which answers are drawn.
        base: `data/base`.
        tuned: `data/sft`; the answers are drawn with its adapter, or from its model, if it has one.
        dataset: `data/dataset`.
        out: Receives `samples.jsonl`, JSON Lines of `stance.data.samples.Samples`; or a note.

    Raises:
        InputError: The device is missing, the model and its cache do not fit into free memory, or no question has two
            answers that differ.
    """
    if options is None:
        leave_out(out)
        return
    from stance.inference.sampling import draw  # vLLM takes seconds to import

    draw(model, answers, options, seed, base, tuned, dataset, out / "samples.jsonl")


def main() -> None:
    """Run the stage: `python -m tasks.sample BASE TUNED DATASET OUT`."""
    arguments = paths(sample)
    params = Params.load()
    sample(params.model, params.answers, params.sample, params.seed, *arguments)


if __name__ == "__main__":
    run(main)
