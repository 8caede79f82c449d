"""Several answers per question, drawn at a temperature: the batch for vLLM, and the answers that are kept.

`draw` does the work of the stage `sample`.

Every answer is drawn with a seed of its own, which follows from the seed of the run, the question and the number of the
answer. So an answer does not depend on which other questions are asked.
"""

import hashlib
import logging
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from stance.config.evaluation import Answers
from stance.config.models import Model
from stance.config.road import Sample
from stance.data.chat import conversation, encode, load_tokenizer
from stance.data.questions import Prompt, read_questions
from stance.data.samples import SampledAnswer, Samples, write_samples
from stance.errors import InputError
from stance.inference.batch import complete
from stance.models.base import locate_tuned
from stance.models.loading import require_device

logger = logging.getLogger(__name__)


def draw(
    model: Model, answers: Answers, options: Sample, seed: int, base: Path, tuned: Path, dataset: Path, out: Path
) -> None:
    """Write the sampled answers to the file `out`; the other arguments and the errors are those of `tasks.sample`."""
    require_device(model)
    folder, adapter = locate_tuned(base, tuned), tuned / "adapter"
    questions = read_questions(dataset)
    batch = draws(load_tokenizer(folder), questions, options, model.system_prompt, answers.max_new_tokens, seed)
    rows = gathered(questions, options, complete(folder, model, answers, batch, adapter if adapter.exists() else None))
    rankable = sum(len(row.answers) > 1 for row in rows)
    if not rankable:
        raise InputError(
            f"{len(batch)} answers were drawn and no question has two that differ; raise sample.temperature or "
            "sample.max_similarity"
        )
    write_samples(out, rows)
    kept = sum(len(row.answers) for row in rows)
    logger.info(
        "%d of %d answers kept; %d of %d questions have at least two to rank",
        kept, len(batch), rankable, len(questions),
    )  # fmt: skip


def draws(
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Prompt],
    options: Sample,
    system_prompt: str,
    max_tokens: int,
    seed: int,
) -> list[tuple[list[int], dict[str, Any]]]:
    """Return the batch for vLLM: every question `options.draws` times, with the settings of each answer."""
    settings = {
        "max_tokens": max_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "logprobs": 0,  # that of the token itself
    }
    return [
        (ids, settings | {"seed": seed_of(seed, question.id, number)})
        for question in questions
        for ids in [encode(tokenizer, conversation(system_prompt, question.prompt))]
        for number in range(options.draws)
    ]


def seed_of(seed: int, question: int, number: int) -> int:
    """Return the seed of one answer, 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {question} {number}".encode()).digest()[:4], "big")


def gathered(questions: Sequence[Prompt], options: Sample, outputs: Iterable[Any]) -> list[Samples]:
    """Return the kept answers of every question, from vLLM's outputs in the order of `draws`.

    A question whose answers are all empty is left out.
    """
    remaining = iter(outputs)
    rows = []
    for question in questions:
        answers = [answer for answer in _answers(remaining, options.draws) if answer.text]
        kept = distinct(answers, options.num_answers, options.max_similarity)
        if kept:
            rows.append(
                Samples(id=question.id, prompt=question.prompt, answers=kept, dropped=options.draws - len(kept))
            )
    return rows


def _answers(outputs: Iterator[Any], count: int) -> list[SampledAnswer]:
    completions = [next(outputs).outputs[0] for _ in range(count)]
    return [SampledAnswer.of(each.text.strip(), each.finish_reason, token_logps(each)) for each in completions]


def token_logps(completion: Any) -> list[float]:
    """Return the log-probability of each token of a completion of vLLM, in nats. Shape (tokens,)."""
    return [entry[token].logprob for token, entry in zip(completion.token_ids, completion.logprobs, strict=True)]


def distinct(answers: Iterable[SampledAnswer], count: int, max_similarity: float) -> list[SampledAnswer]:
    """Return the first `count` answers of which no two are near-duplicates.

    Args:
        answers: The answers in the order in which they were drawn.
        count: Most answers that are returned.
        max_similarity: Largest `similarity` of two answers that are returned. Equal answers are dropped at any bound.
    """
    kept: list[SampledAnswer] = []
    for answer in answers:
        alike = [similarity(answer.text, other.text) for other in kept]
        if all(value <= max_similarity and value < 1 for value in alike):
            kept.append(answer)
    return kept[:count]


def similarity(first: str, second: str) -> float:
    """Return how much two texts share, from 0 to 1: the Jaccard index of their pairs of neighbouring characters.

    Case, width, spaces and punctuation do not count. Texts that differ in nothing else have similarity 1.
    """
    a, b = bare(first), bare(second)
    if a == b:
        return 1.0
    left, right = _bigrams(a), _bigrams(b)
    shared = len(left & right) / len(left | right)
    return min(shared, 1 - 1e-9)  # the same pairs in another order


def bare(text: str) -> str:
    """Return a text in lower case, with nothing but letters and digits."""
    return "".join(char for char in unicodedata.normalize("NFKC", text).casefold() if char.isalnum())


def _bigrams(text: str) -> set[str]:
    return {text[place : place + 2] for place in range(max(len(text) - 1, 1))}
