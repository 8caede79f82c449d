"""What a model answers, and how likely it finds given answers; with vLLM, in one batch.

Answers are greedy; the chat template is applied here, once, and vLLM gets token ids. Asked are the test prompts, the
probes and the training questions. In the same batch the engine scores given texts (teacher-forced): the *support* and
*oppose* answers of all training questions, a measure that never saturates, and everyday answers to the unrelated
probes, to see a model drift there.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from tasks.chat import conversation, encode, encode_answer, load_tokenizer
from tasks.engine import complete
from tasks.errors import run
from tasks.jsonfile import write_json, write_jsonl
from tasks.model import require_device
from tasks.params import Answers, Model, Params
from tasks.parity import Text
from tasks.questions import PROBES, Probe, Prompt, Question, read_probes, read_prompts, read_questions
from tasks.weights import locate

logger = logging.getLogger(__name__)

LIKELIEST = 20
"""Tokens whose probabilities are kept per position of a text on which drift is measured; vLLM's own limit."""


def answers(model: Model, options: Answers, seed: int, weights: Path, dataset: Path, out: Path, beside: Path) -> None:
    """Write the answers to the test prompts to `out`, and everything else to the folder `beside`.

    Answers are JSON Lines of `id`, `prompt`, `response`, `tokens` and `finish_reason` (`length`: cut off).

    Args:
        model: Device and system prompt.
        options: The block `answers`.
        seed: vLLM wants one; greedy decoding does not use it.
        weights: `data/base`, or a model folder such as `data/merged`.
        dataset: `data/dataset`.
        out: Receives the answers to the test prompts.
        beside: Receives the answers to the probes, `probes.jsonl`, and to the training questions, `questions.jsonl`;
            `logps.json`, per question id and stance the log-probability of each answer token, in nats; and
            `likeliest.json`, per unrelated probe and answer token the likeliest token ids with theirs.

    Raises:
        InputError: The device is missing, or the model and its cache do not fit into free memory.
    """
    require_device(model)
    folder = locate(weights) if (weights / "base.json").exists() else weights
    tokenizer = load_tokenizer(folder)
    prompts, questions, probes = read_prompts(dataset), read_questions(dataset), read_probes(dataset / PROBES)
    asked = [
        encode(tokenizer, conversation(model.system_prompt, row.prompt)) for row in (*prompts, *probes, *questions)
    ]
    labelled = [text for row in questions for text in labelled_texts(tokenizer, row, model.system_prompt)]
    everyday = everyday_texts(tokenizer, probes, model.system_prompt)
    batch: list[tuple[list[int], dict[str, Any]]] = [
        *((ids, {"max_tokens": options.max_new_tokens}) for ids in asked),
        *((prompt + answer, {"max_tokens": 1, "prompt_logprobs": 0}) for prompt, answer in labelled),
        *((prompt + answer, {"max_tokens": 1, "prompt_logprobs": LIKELIEST}) for prompt, answer in everyday.values()),
    ]
    outputs = iter(complete(folder, model, options, seed, batch))
    write_answers(out, prompts, outputs)
    write_answers(beside / "probes.jsonl", probes, outputs)
    write_answers(beside / "questions.jsonl", questions, outputs)
    write_logps(beside / "logps.json", questions, labelled, outputs)
    write_likeliest(beside / "likeliest.json", everyday, outputs)
    logger.info(
        "%d answers to test prompts in %s, %d others in %s", len(prompts), out, len(asked) - len(prompts), beside
    )


def labelled_texts(tokenizer: PreTrainedTokenizerFast, question: Question, system_prompt: str) -> list[Text]:
    """Return the token ids of a question's *support* and *oppose* answers, after its prompt."""
    messages = conversation(system_prompt, question.prompt)
    return [encode_answer(tokenizer, messages, answer) for answer in (question.support, question.oppose)]


def everyday_texts(tokenizer: PreTrainedTokenizerFast, probes: Sequence[Probe], system_prompt: str) -> dict[int, Text]:
    """Return the token ids of the everyday answers, each after its prompt, by the id of the probe."""
    return {
        row.id: encode_answer(tokenizer, conversation(system_prompt, row.prompt), row.answer)
        for row in probes
        if row.answer
    }


def write_answers(out: Path, prompts: Sequence[Prompt], outputs: Iterator[Any]) -> None:
    """Write one row per prompt."""
    rows = [
        {
            "id": row.id,
            "prompt": row.prompt,
            "response": output.outputs[0].text.strip(),
            "tokens": len(output.outputs[0].token_ids),
            "finish_reason": output.outputs[0].finish_reason,
        }
        for row, output in zip(prompts, outputs, strict=False)  # the outputs go on
    ]
    write_jsonl(out, rows)


def write_logps(out: Path, questions: Sequence[Question], texts: Sequence[Text], outputs: Iterator[Any]) -> None:
    """Write the log-probabilities of every labelled answer's tokens, by question id and stance."""
    scores = [answer_logps(text, output) for text, output in zip(texts, outputs, strict=False)]
    record = {
        row.id: {"support": support, "oppose": oppose}
        for row, support, oppose in zip(questions, scores[::2], scores[1::2], strict=True)
    }
    write_json(out, record)


def answer_logps(text: Text, output: Any) -> list[float]:
    """Return the log-probabilities that vLLM gave to the answer's tokens, in nats."""
    prompt, answer = text
    return [output.prompt_logprobs[position][token].logprob for position, token in enumerate(answer, start=len(prompt))]


def write_likeliest(out: Path, texts: Mapping[int, Text], outputs: Iterator[Any]) -> None:
    """Write for every token of every text the likeliest tokens in its place with their log-probabilities, by id."""
    found = {ident: likeliest(text, output) for (ident, text), output in zip(texts.items(), outputs, strict=True)}
    write_json(out, found)


def likeliest(text: Text, output: Any) -> list[dict[int, float]]:
    """Return per token of the answer the log-probabilities of the likeliest tokens there and of its own, in nats."""
    prompt, answer = text
    return [
        {token: entry.logprob for token, entry in output.prompt_logprobs[position].items()}
        for position in range(len(prompt), len(prompt) + len(answer))
    ]


def main() -> None:
    """Run the stage: `python -m tasks.answers WEIGHTS DATASET OUT BESIDE`."""
    params = Params.load()
    answers(params.model, params.answers, params.seed, *map(Path, sys.argv[1:]))


if __name__ == "__main__":
    run(main)
