"""Does an engine that is up serve the model that a run has made? Asked on a port that nobody else knows yet.

It must read the probe conversations in the token ids of training, give the answers of the pairs the probabilities that
the run has measured, and answer test prompts.
"""

import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import httpx

from stance.client.local import ALIGNED, BASE
from stance.data.chat import PROBES, Fingerprint, Message, conversation
from stance.data.likelihoods import Logps, read_logps
from stance.data.noise import SERVED, Floor
from stance.data.questions import Question, read_prompts, read_questions
from stance.data.records import Gate
from stance.data.training import Parity
from stance.errors import InputError
from stance.language.messages import message
from stance.serving.candidate import ServableModel

SAMPLE = 16
"""Questions whose answers are scored by an engine; both answers of each."""
CANARIES = 3
"""Test prompts that an engine must answer."""
PATIENCE = 60
"""Seconds that a canary may take."""
HELLO = ("你好",)
"""The canary where a model comes without test prompts."""


class Live:
    """An engine that is up and is asked before anybody else may."""

    def __init__(self, address: str, key: str, model: str) -> None:
        """Take its address, the key and the name of the model to ask."""
        self.address, self.model = address, model
        self.headers = {"authorization": f"Bearer {key}"}

    def tokens(self, messages: Sequence[Message], *, continued: bool = True) -> list[int]:
        """Return the ids that the engine makes of a conversation; `continued`, if the model is to go on."""
        asked = {"model": self.model, "messages": list(messages), "add_generation_prompt": continued}
        return list(self._post("/tokenize", asked)["tokens"])

    def logps(self, texts: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
        """Return the log-probabilities of the answers' tokens, in nats; texts are the ids of prompts and answers."""
        prompts = [prompt + answer for prompt, answer in texts]
        asked = {"model": self.model, "prompt": prompts, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        choices = self._post("/v1/completions", asked)["choices"]
        return [
            [choice["prompt_logprobs"][at][str(token)]["logprob"] for at, token in enumerate(answer, start=len(prompt))]
            for (prompt, answer), choice in zip(texts, choices, strict=True)
        ]

    def answer(self, messages: Sequence[Message], max_tokens: int) -> str:
        """Return the greedy answer to a conversation."""
        asked = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens}
        return str(self._post("/v1/chat/completions", asked)["choices"][0]["message"]["content"] or "")

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        try:
            answer = httpx.post(
                f"{self.address}{path}", json=body, headers=self.headers, timeout=5 * PATIENCE, trust_env=False
            )
        except httpx.HTTPError as error:
            raise InputError(
                f"the engine did not answer {path} ({type(error).__name__}); its log says why, and what it was given "
                "is in deploy/vllm.yaml"
            ) from None
        if answer.status_code != 200:
            raise InputError(
                f"the engine answered {path} with {answer.status_code} ({answer.text[:200]}); its log says why"
            )
        return answer.json()


def reading_gate(live: Live, base: Fingerprint) -> Gate:
    """Does the engine make the ids of the probe conversations that training made?"""
    served = [live.tokens(probe) for probe in PROBES]
    wrong = sum(ids != expected for ids, expected in zip(served, base.probes, strict=True))
    return Gate(
        name="live fingerprint",
        passed=not wrong,
        figure=message("conversations_differ", number=wrong, all=len(PROBES)),
        bound=message("ids_of_the_base"),
        advice=message("remove_chat_template"),
    )


def parity_gate(live: Live, noise: Floor, recorded: Logps, questions: Sequence[Question], system_prompt: str) -> Gate:
    """Does the engine give the answers of the pairs the probabilities that the run has measured?

    The bound is that of `stance.data.noise` for two engines.
    """
    most_mean, most_worst = noise.bounds(SERVED)
    step = max(1, len(questions) // SAMPLE)
    sample = [(row, side) for row in questions[::step][:SAMPLE] for side in ("support", "oppose")]
    scored = live.logps([text_ids(live, row, side, system_prompt) for row, side in sample])
    expected = [recorded[str(row.id)][side] for row, side in sample]
    same = [len(a) == len(b) for a, b in zip(scored, expected, strict=True)]
    differences = [
        abs(a - b) for one, other in zip(scored, expected, strict=True) for a, b in zip(one, other, strict=False)
    ]
    mean, worst = fmean(differences), max(differences)
    drift = message("drift_in_answers", mean=mean, worst=worst, all=len(sample))
    return Gate(
        name="live parity",
        passed=all(same) and mean <= most_mean and worst <= most_worst,
        figure=drift if all(same) else message("answers_differ", number=same.count(False), all=len(same)),
        bound=message("at_most_drift_from_answers", mean=most_mean, worst=most_worst),
        advice=message("serve_in_bfloat16"),
    )


def text_ids(live: Live, question: Question, side: str, system_prompt: str) -> tuple[list[int], list[int]]:
    """Return the ids of a question's prompt and of one of its answers, as the engine makes them."""
    messages = conversation(system_prompt, question.prompt)
    prompt = live.tokens(messages)
    answered = [*messages, {"role": "assistant", "content": getattr(question, side)}]
    return prompt, live.tokens(answered, continued=False)[len(prompt) :]


def canary_gate(live: Live, prompts: Sequence[str], system_prompt: str, max_tokens: int) -> Gate:
    """Does the engine answer a few test prompts, and soon?"""
    seconds, empty = [], 0
    for prompt in prompts[:CANARIES]:
        began = time.monotonic()
        empty += not live.answer(conversation(system_prompt, prompt), max_tokens).strip()
        seconds.append(time.monotonic() - began)
    return Gate(
        name="canary",
        passed=not empty and max(seconds) <= PATIENCE,
        figure=message("answered", number=len(seconds) - empty, all=len(seconds), seconds=max(seconds)),
        bound=message("answer_within", seconds=PATIENCE),
        advice=message("look_at_the_log"),
    )


def live_gates(candidate: ServableModel, address: str, key: str) -> list[Gate]:
    """Return the verdicts on an engine, as far as the candidate comes with something to hold it against.

    Beside an unmerged adapter it is the base whose probabilities are known; both are asked to answer.
    """
    system_prompt, gates = candidate.system_prompt, []
    live = Live(address, key, BASE if candidate.adapter else ALIGNED)
    if candidate.fingerprint:
        gates.append(reading_gate(live, Fingerprint.read(candidate.fingerprint)))
    noise = Parity.read(candidate.parity).floor if candidate.parity else None  # earlier runs did not measure it
    if candidate.logps and candidate.dataset and noise:
        recorded, questions = read_logps(candidate.logps), read_questions(candidate.dataset)
        gates.append(parity_gate(live, noise, recorded, questions, system_prompt))
    prompts = [row.prompt for row in read_prompts(candidate.dataset)] if candidate.dataset else HELLO
    asked = [live, Live(address, key, ALIGNED)] if candidate.adapter else [live]
    return [*gates, *(canary_gate(one, prompts, system_prompt, candidate.max_new_tokens) for one in asked)]
