"""Ask a model, base or aligned, with vLLM; and measure how likely it finds given answers. All in one batch.

The model answers the test prompts, the probes and the training questions, greedily. The chat template is applied here,
once, and vLLM gets token ids. In the same batch the engine scores given texts (teacher-forced). These are the *support*
and *oppose* answers of all training questions, whose log-probabilities show a change even where all answers agree; and
everyday answers to the unrelated probes, which show whether the model drifts there. The prompts that show side effects
join the batch, where the data set has them; the base model answers the prompts that training retains as well.
"""

import logging
from pathlib import Path

from stance.config.evaluation import Answers
from stance.config.models import Model
from stance.config.params import Params
from stance.data.chat import load_tokenizer
from stance.errors import paths, run
from stance.inference.batch import complete
from stance.inference.exam import Exam
from stance.models.base import locate
from stance.models.loading import require_device

logger = logging.getLogger(__name__)


def answers(model: Model, options: Answers, weights: Path, dataset: Path, out: Path, beside: Path) -> None:
    """Write the answers to the test prompts to `out`, and all other results to the folder `beside`.

    Args:
        model: Device and system prompt.
        options: The block `answers`.
        weights: `data/base`, or a model folder such as `data/merged`.
        dataset: `data/dataset`.
        out: Receives the answers to the test prompts.
        beside: Receives the other results, as in `Exam.write`.

    Raises:
        InputError: The device is missing, or the model and its cache do not fit into free memory.
    """
    require_device(model)
    is_base = (weights / "base.json").exists()
    folder = locate(weights) if is_base else weights
    exam = Exam(load_tokenizer(folder), dataset, model.system_prompt, options.max_new_tokens, is_base=is_base)
    exam.write(complete(folder, model, options, exam.requests()), out, beside)
    logger.info("the answers to %d test prompts are in %s, all others in %s", len(exam.prompts), out, beside)


def main() -> None:
    """Run the stage: `python -m tasks.answers WEIGHTS DATASET OUT BESIDE`."""
    arguments = paths(answers)
    params = Params.load()
    answers(params.model, params.answers, *arguments)


if __name__ == "__main__":
    run(main)
