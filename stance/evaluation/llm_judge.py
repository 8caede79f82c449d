"""A language model's opinion on the stance of every answer."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from stance.config.evaluation import Answers, EndpointJudge
from stance.config.models import Model
from stance.data.answers import Answer
from stance.data.chat import Message, encode, load_tokenizer
from stance.data.questions import Question
from stance.errors import InputError
from stance.language.detect import language_of
from stance.language.en_judge import ENGLISH
from stance.language.inquiry import Inquiry
from stance.language.zh_hant_judge import CHINESE
from stance.models.base import locate

SHOWN = 4
"""Questions of the data set that are shown, each with its answers."""
TOKENS = 8
"""Enough for the longest word in any tokenizer."""
READABLE = 0.5
"""Share of the answers that must be one of the words; below, the endpoint answers nonsense."""
AT_ONCE, PATIENCE = 8, 60
"""Requests on their way at once, and seconds that one may take."""


def inquiry_for(questions: Sequence[Question]) -> Inquiry:
    """Return the inquiry in the language of the questions: Chinese, or English for every other language."""
    chinese = language_of(question.prompt for question in questions) == "zh_Hant"
    return CHINESE if chinese else ENGLISH


def request(inquiry: Inquiry, shown: Sequence[Question], row: Answer) -> list[Message]:
    """Return the conversation that asks for the stance of an answer."""
    examples = [
        (question.prompt, text, word)
        for question in shown
        for word, side in inquiry.words.items()
        if (text := getattr(question, side))
    ]
    messages = [{"role": "system", "content": inquiry.task}]
    for prompt, text, word in examples:
        messages += [_user(inquiry, prompt, text), {"role": "assistant", "content": word}]
    return [*messages, _user(inquiry, row.prompt, row.response)]


def _user(inquiry: Inquiry, prompt: str, text: str) -> Message:
    return {"role": "user", "content": inquiry.frame.format(prompt, text)}


def of_base(
    asked: Sequence[list[Message]], inquiry: Inquiry, model: Model, options: Answers, base: Path
) -> tuple[list[str], str | None]:
    """Return the base model's replies, each one of the inquiry's words, which vLLM enforces; or what prevents them."""
    from stance.inference.batch import complete  # brings torch, seconds that a run without a second judge need not wait
    from stance.models.loading import require_device

    require_device(model)
    folder = locate(base)
    tokenizer = load_tokenizer(folder)
    settings: dict[str, Any] = {"max_tokens": TOKENS, "choice": tuple(inquiry.words)}
    batch = [(encode(tokenizer, messages), settings) for messages in asked]
    try:
        outputs = complete(folder, model, options, batch)
    except InputError as error:
        return [""] * len(asked), str(error)
    return [output.outputs[0].text for output in outputs], None


def of_endpoint(asked: Sequence[list[Message]], opinion: EndpointJudge) -> tuple[list[str], str | None]:
    """Return what the model behind an endpoint says, and what is wrong with that, or None."""
    from openai import APIStatusError, OpenAI, OpenAIError

    key = os.environ.get("OPENAI_API_KEY", "none")

    def ask(client: OpenAI, messages: list[Message]) -> str:
        given: Any = messages
        answer = client.chat.completions.create(model=opinion.model, messages=given, temperature=0, max_tokens=TOKENS)
        return str(answer.choices[0].message.content or "")

    try:
        with (
            OpenAI(base_url=opinion.url, api_key=key, timeout=PATIENCE) as client,
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):
            replies = list(pool.map(partial(ask, client), asked))
    except (OpenAIError, AttributeError, LookupError, TypeError, ValueError) as error:
        # The last four: a reply with status 200 that is no chat completion, as of a login page.
        what = "refuses" if isinstance(error, APIStatusError) else "gives no answer of an OpenAI-style endpoint"
        return [""] * len(asked), f"{opinion.url} {what} ({' '.join(str(error).split())[:200]})"
    return replies, None


def unreadable(inquiry: Inquiry, replies: Sequence[str]) -> str | None:
    """Return what is wrong with replies most of which name no stance; None where most do."""
    unread = [text for text in replies if not inquiry.stance(text)]
    if len(unread) <= (1 - READABLE) * len(replies):
        return None
    return f"its replies are like {unread[0][:40]!r}, which is none of {', '.join(inquiry.words)}"
