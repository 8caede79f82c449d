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
from stance.data.questions import PROBES, Prompt, read_probes, read_prompts, read_questions
from stance.data.side_effects import RETAINED, SIDE_EFFECTS, SideProbe, read_if_any
from stance.errors import paths, run
from stance.inference.answers import (
    TOP_LOGPROBS,
    answer_requests,
    everyday_texts,
    labelled_texts,
    score_requests,
    side_requests,
    side_texts,
    write_answers,
    write_logps,
    write_side,
    write_top_logprobs,
)
from stance.inference.batch import complete
from stance.models.base import locate
from stance.models.loading import require_device

logger = logging.getLogger(__name__)


def answers(model: Model, options: Answers, weights: Path, dataset: Path, out: Path, beside: Path) -> None:
    """Write the answers to the test prompts to `out`, and all other results to the folder `beside`.

    Answers are JSON Lines of `id`, `prompt`, `response`, `tokens` and `finish_reason` (`length`: cut off).

    Args:
        model: Device and system prompt.
        options: The block `answers`.
        weights: `data/base`, or a model folder such as `data/merged`.
        dataset: `data/dataset`.
        out: Receives the answers to the test prompts.
        beside: Receives the answers to the probes, `probes.jsonl`, and to the training questions, `questions.jsonl`;
            those to the prompts that show side effects (`stance.inference.answers.write_side`), and, of the base, to
            the prompts that training retains, `retained.jsonl`; `logps.json`, the log-probability of each answer token
            in nats, by question id and stance; and `likeliest.json`, the most likely tokens at each answer token of the
            unrelated probes.

    Raises:
        InputError: The device is missing, or the model and its cache do not fit into free memory.
    """
    require_device(model)
    is_base = (weights / "base.json").exists()
    folder = locate(weights) if is_base else weights
    tokenizer = load_tokenizer(folder)
    prompts, questions, probes = read_prompts(dataset), read_questions(dataset), read_probes(dataset / PROBES)
    asides = read_if_any(dataset / SIDE_EFFECTS, SideProbe)
    retained = read_if_any(dataset / RETAINED, Prompt) if is_base else []
    plain = (*prompts, *probes, *questions, *retained)
    labelled = [text for row in questions for text in labelled_texts(tokenizer, row, model.system_prompt)]
    everyday = everyday_texts(tokenizer, probes, model.system_prompt)
    batch = [
        *answer_requests(tokenizer, plain, model.system_prompt, options.max_new_tokens),
        *side_requests(tokenizer, asides, model.system_prompt),
        *score_requests(labelled, 0),
        *score_requests(everyday.values(), TOP_LOGPROBS),
    ]
    outputs = iter(complete(folder, model, options, batch))
    write_answers(out, prompts, outputs)
    write_answers(beside / "probes.jsonl", probes, outputs)
    write_answers(beside / "questions.jsonl", questions, outputs)
    write_answers(beside / "retained.jsonl", retained, outputs)
    write_side(beside, asides, side_texts(tokenizer, asides, model.system_prompt), outputs)
    write_logps(beside / "logps.json", questions, labelled, outputs)
    write_top_logprobs(beside / "likeliest.json", everyday, outputs)
    others = len(plain) - len(prompts) + len(asides)
    logger.info("%d answers to test prompts in %s, %d other answers in %s", len(prompts), out, others, beside)


def main() -> None:
    """Run the stage: `python -m tasks.answers WEIGHTS DATASET OUT BESIDE`."""
    arguments = paths(answers)
    params = Params.load()
    answers(params.model, params.answers, *arguments)


if __name__ == "__main__":
    run(main)
