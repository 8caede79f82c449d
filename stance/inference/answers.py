"""The texts of one batch, and the files for its results.

In: questions and probes. Out: token ids for vLLM and, from its outputs, answers and log-probabilities. The writers
share one iterator of outputs, so they are called in the order of the batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from stance.data.chat import conversation, encode_answer
from stance.data.questions import Probe, Prompt, Question
from stance.machine.files import write_json, write_jsonl
from stance.models.parity import Text

TOP_LOGPROBS = 20
"""Number of tokens per position whose log-probabilities are kept to measure drift. vLLM allows no more."""


def labelled_texts(tokenizer: PreTrainedTokenizerFast, question: Question, system_prompt: str) -> list[Text]:
    """Return two texts: the question with its *support* answer, and with its *oppose* answer."""
    messages = conversation(system_prompt, question.prompt)
    return [encode_answer(tokenizer, messages, answer) for answer in (question.support, question.oppose)]


def everyday_texts(tokenizer: PreTrainedTokenizerFast, probes: Sequence[Probe], system_prompt: str) -> dict[int, Text]:
    """Return a text for every probe that has an everyday answer: its prompt and that answer, by the id of the probe."""
    return {
        row.id: encode_answer(tokenizer, conversation(system_prompt, row.prompt), row.answer)
        for row in probes
        if row.answer
    }


def write_answers(out: Path, prompts: Sequence[Prompt], outputs: Iterator[Any]) -> None:
    """Write the answers, one row per prompt; take as many outputs as there are prompts."""
    rows = [
        {
            "id": row.id,
            "prompt": row.prompt,
            "response": output.outputs[0].text.strip(),
            "tokens": len(output.outputs[0].token_ids),
            "finish_reason": output.outputs[0].finish_reason,
        }
        for row, output in zip(prompts, outputs, strict=False)  # more outputs follow
    ]
    write_jsonl(out, rows)


def write_logps(out: Path, questions: Sequence[Question], texts: Sequence[Text], outputs: Iterator[Any]) -> None:
    """Write the log-probability of each token of every labelled answer, in nats, by question id and stance."""
    scores = [answer_logps(text, output) for text, output in zip(texts, outputs, strict=False)]
    record = {
        row.id: {"support": support, "oppose": oppose}
        for row, support, oppose in zip(questions, scores[::2], scores[1::2], strict=True)
    }
    write_json(out, record)


def answer_logps(text: Text, output: Any) -> list[float]:
    """Return the log-probability of each token of the answer, in nats. Shape (answer tokens,)."""
    prompt, answer = text
    return [output.prompt_logprobs[position][token].logprob for position, token in enumerate(answer, start=len(prompt))]


def write_top_logprobs(out: Path, texts: Mapping[int, Text], outputs: Iterator[Any]) -> None:
    """Write the most likely tokens at every position of every answer, with their log-probabilities, by probe id."""
    record = {ident: top_logprobs(text, output) for (ident, text), output in zip(texts.items(), outputs, strict=True)}
    write_json(out, record)


def top_logprobs(text: Text, output: Any) -> list[dict[int, float]]:
    """Return for each position of the answer the most likely tokens and the actual one: token id to nats."""
    prompt, answer = text
    return [
        {token: entry.logprob for token, entry in output.prompt_logprobs[position].items()}
        for position in range(len(prompt), len(prompt) + len(answer))
    ]
