"""All that is asked of a model in one batch, and the files for what it answers.

In: a data set. Out: requests for vLLM; and, from its outputs, answers and log-probabilities. Base and aligned model get
the same questions, and so does the adapter of a run that is not merged.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from stance.data.questions import PROBES, Prompt, read_probes, read_prompts, read_questions
from stance.data.side_effects import RETAINED, SIDE_EFFECTS, SideProbe, read_if_any
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
from stance.inference.batch import Request


class Exam:
    """What a model is asked."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, dataset: Path, system_prompt: str, max_tokens: int, *, is_base: bool
    ) -> None:
        """Read the questions.

        Args:
            tokenizer: That of the model.
            dataset: `data/dataset`.
            system_prompt: Stands before every question.
            max_tokens: The most tokens of an answer.
            is_base: Is the base model asked? It also answers the prompts that training retains.
        """
        self.tokenizer, self.system_prompt, self.max_tokens = tokenizer, system_prompt, max_tokens
        self.prompts, self.questions = read_prompts(dataset), read_questions(dataset)
        self.probes, self.asides = read_probes(dataset / PROBES), read_if_any(dataset / SIDE_EFFECTS, SideProbe)
        self.retained = read_if_any(dataset / RETAINED, Prompt) if is_base else []
        self.labelled = [text for row in self.questions for text in labelled_texts(tokenizer, row, system_prompt)]
        self.everyday = everyday_texts(tokenizer, self.probes, system_prompt)

    def requests(self) -> list[Request]:
        """Return the token ids and settings of every question and of every text to score."""
        plain = (*self.prompts, *self.probes, *self.questions, *self.retained)
        return [
            *answer_requests(self.tokenizer, plain, self.system_prompt, self.max_tokens),
            *side_requests(self.tokenizer, self.asides, self.system_prompt),
            *score_requests(self.labelled, 0),
            *score_requests(self.everyday.values(), TOP_LOGPROBS),
        ]

    def write(self, results: Iterable[Any], out: Path, beside: Path) -> None:
        """Write what a model answered.

        Args:
            results: vLLM's outputs for `requests`, in their order.
            out: Receives the answers to the test prompts, JSON Lines of `id`, `prompt`, `response`, `tokens` and
                `finish_reason` (`length`: cut off).
            beside: Receives the answers to the probes, `probes.jsonl`, and to the training questions,
                `questions.jsonl`; those to the prompts that show side effects (`write_side`), and, of the base, to the
                prompts that training retains, `retained.jsonl`; `logps.json`, the log-probability of each answer token
                in nats, by question id and stance; and `likeliest.json`, the most likely tokens at each answer token of
                the unrelated probes.
        """
        outputs = iter(results)
        write_answers(out, self.prompts, outputs)
        write_answers(beside / "probes.jsonl", self.probes, outputs)
        write_answers(beside / "questions.jsonl", self.questions, outputs)
        write_answers(beside / "retained.jsonl", self.retained, outputs)
        write_side(beside, self.asides, side_texts(self.tokenizer, self.asides, self.system_prompt), outputs)
        write_logps(beside / "logps.json", self.questions, self.labelled, outputs)
        write_top_logprobs(beside / "likeliest.json", self.everyday, outputs)
