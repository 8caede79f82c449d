"""Prompts and texts for one batch, and the files that its results go to."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from stance.data.chat import conversation, encode_answer
from stance.data.questions import Probe, Prompt, Question
from stance.machine.files import write_json, write_jsonl
from stance.models.parity import Text

LIKELIEST = 20
"""Tokens whose probabilities are kept per position of a text on which drift is measured; vLLM's own limit."""


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
