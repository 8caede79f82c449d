"""The texts of one batch, and the files for its results.

In: questions and probes. Out: token ids for vLLM and, from its outputs, answers and log-probabilities. The writers
share one iterator of outputs, so they are called in the order of the batch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from stance.data.chat import conversation, encode, encode_answer
from stance.data.questions import Probe, Prompt, Question
from stance.data.side_effects import MAX_TOKENS, SAMPLES, SideProbe, asked, drawn, scored
from stance.inference.batch import SEED, Request
from stance.machine.files import write_json, write_jsonl
from stance.models.parity import Text

TOP_LOGPROBS = 20
"""Number of tokens per position whose log-probabilities are kept to measure drift. vLLM allows no more."""


def answer_requests(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt], system_prompt: str, max_tokens: int
) -> list[Request]:
    """Return the requests for a greedy answer to every prompt."""
    return [(encode(tokenizer, conversation(system_prompt, row.prompt)), {"max_tokens": max_tokens}) for row in prompts]


def score_requests(texts: Iterable[Text], top: int) -> list[Request]:
    """Return the requests for the log-probabilities of every text: of its tokens, and of the `top` likeliest ones."""
    return [(prompt + answer, {"max_tokens": 1, "prompt_logprobs": top}) for prompt, answer in texts]


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
        _answer(row, output.outputs[0])
        for row, output in zip(prompts, outputs, strict=False)  # more outputs follow
    ]
    write_jsonl(out, rows)


def write_drawn(out: Path, prompts: Sequence[Prompt], outputs: Iterator[Any]) -> None:
    """Write the answers that were drawn for each prompt, one row per answer; take as many outputs as prompts."""
    rows = [
        _answer(row, completion) for row, output in zip(prompts, outputs, strict=False) for completion in output.outputs
    ]
    write_jsonl(out, rows)


def _answer(row: Prompt, completion: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "prompt": row.prompt,
        "response": completion.text.strip(),
        "tokens": len(completion.token_ids),
        "finish_reason": completion.finish_reason,
    }


def side_requests(tokenizer: PreTrainedTokenizerFast, probes: Sequence[SideProbe], system_prompt: str) -> list[Request]:
    """Return the requests for the prompts that show side effects, in the order in which `write_side` reads them.

    First every prompt is answered greedily; then some of them `SAMPLES` times at temperature 1, with a fixed seed; then
    the everyday texts are scored.
    """
    ids = {row.id: encode(tokenizer, row.messages(system_prompt)) for row in asked(probes)}
    random = {"temperature": 1.0, "n": SAMPLES, "seed": SEED}
    return [
        *((ids[row.id], {"max_tokens": MAX_TOKENS[row.kind]}) for row in asked(probes)),
        *((ids[row.id], {"max_tokens": MAX_TOKENS[row.kind], **random}) for row in drawn(probes)),
        *score_requests(side_texts(tokenizer, probes, system_prompt), TOP_LOGPROBS),
    ]


def side_texts(tokenizer: PreTrainedTokenizerFast, probes: Sequence[SideProbe], system_prompt: str) -> list[Text]:
    """Return a text for every prompt with an everyday answer: the prompt and that answer."""
    return [encode_answer(tokenizer, row.messages(system_prompt), row.answer or "") for row in scored(probes)]


def write_side(out: Path, probes: Sequence[SideProbe], texts: Sequence[Text], outputs: Iterator[Any]) -> None:
    """Write the results for the prompts that show side effects to the folder `out`, none if there are no prompts.

    Args:
        out: Receives the greedy answers, `side_effects.jsonl`; the drawn ones, `drawn.jsonl`; and for each everyday
            text the log-probability of every token and the likeliest tokens there, `texts.json`.
        probes: All prompts.
        texts: What `side_texts` returns for them.
        outputs: The outputs of vLLM for `side_requests`, and perhaps more.
    """
    write_answers(out / "side_effects.jsonl", asked(probes), outputs)
    write_drawn(out / "drawn.jsonl", drawn(probes), outputs)
    record = {
        row.id: {"logps": answer_logps(text, output), "likeliest": top_logprobs(text, output)}
        for row, text, output in zip(scored(probes), texts, outputs, strict=False)
    }
    write_json(out / "texts.json", record)


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
