"""A language model's opinion on the stance of every answer."""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from stance.config.evaluation import Answers, EndpointJudge
from stance.config.models import Model
from stance.data.answers import Answer
from stance.data.chat import Message, encode, load_tokenizer
from stance.data.questions import Question, Stance
from stance.errors import InputError
from stance.models.base import locate

WORDS: dict[str, Stance] = {"支持": "support", "中立": "neutral", "反對": "oppose"}
NAMED = re.compile("支持|中立|反[對对]")
DENIED = re.compile(f"[不非無没沒](?:是|會|能|太|怎麼)?(?:{NAMED.pattern})")
TASK = (
    "你會讀到一個問題和一個回答。請判斷這個回答對問題所談的主題抱持什麼立場：支持、中立或反對。"
    "看的是對主題的立場，不是對問句的是或否；兩面都說或沒有表態就是中立。只回答其中一個詞。"
)
SHOWN = 4
"""Questions of the data set that are shown, each with its answers."""
TOKENS = 8
"""Enough for the longest word in any tokenizer."""
READABLE = 0.5
"""Share of the answers that must be one of the words; below, the endpoint answers nonsense."""
AT_ONCE, PATIENCE = 8, 60
"""Requests on their way at once, and seconds that one may take."""


def request(shown: Sequence[Question], row: Answer) -> list[Message]:
    """Return the conversation that asks for the stance of an answer."""
    examples = [
        (question.prompt, text, word)
        for question in shown
        for word, side in WORDS.items()
        if (text := getattr(question, side))
    ]
    messages = [{"role": "system", "content": TASK}]
    for prompt, text, word in examples:
        messages += [_user(prompt, text), {"role": "assistant", "content": word}]
    return [*messages, _user(row.prompt, row.response)]


def _user(prompt: str, text: str) -> Message:
    return {"role": "user", "content": f"問題：{prompt}\n回答：{text}"}


def of_base(asked: Sequence[list[Message]], model: Model, options: Answers, base: Path) -> tuple[list[str], str | None]:
    """Return what the base model says, each one of the words: vLLM lets it say nothing else; or why it cannot."""
    from stance.inference.batch import complete  # brings torch, seconds that a run without a second judge need not wait
    from stance.models.loading import require_device

    require_device(model)
    folder = locate(base)
    tokenizer = load_tokenizer(folder)
    settings: dict[str, Any] = {"max_tokens": TOKENS, "choice": tuple(WORDS)}
    batch = [(encode(tokenizer, messages), settings) for messages in asked]
    try:
        outputs = complete(folder, model, options, batch)
    except InputError as error:
        return [""] * len(asked), str(error)
    return [output.outputs[0].text for output in outputs], None


def of_endpoint(asked: Sequence[list[Message]], opinion: EndpointJudge) -> tuple[list[str], str | None]:
    """Return what the model behind an endpoint says, and what is wrong with that, or None."""
    from openai import APIStatusError, OpenAI, OpenAIError

    client = OpenAI(base_url=opinion.url, api_key=os.environ.get("OPENAI_API_KEY", "none"), timeout=PATIENCE)

    def ask(messages: list[Message]) -> str:
        given: Any = messages
        answer = client.chat.completions.create(model=opinion.model, messages=given, temperature=0, max_tokens=TOKENS)
        return str(answer.choices[0].message.content or "")

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            said = list(pool.map(ask, asked))
    except (OpenAIError, AttributeError, LookupError, TypeError, ValueError) as error:
        # The last four: a reply with status 200 that is no chat completion, as of a login page.
        what = "refuses" if isinstance(error, APIStatusError) else "gives no answer of an OpenAI-style endpoint"
        return [""] * len(asked), f"{opinion.url} {what} ({' '.join(str(error).split())[:200]})"
    return said, None


def unreadable(said: Sequence[str]) -> str | None:
    """Return what is wrong with replies most of which name no stance; None where most do."""
    unread = [text for text in said if not stance(text)]
    if len(unread) <= (1 - READABLE) * len(said):
        return None
    return f"its replies are like {unread[0][:40]!r}, which is none of {', '.join(WORDS)}"


def stance(text: str) -> Stance | None:
    """Return the stance that a text names, if it names exactly one and does not deny it."""
    named = {WORDS[word.replace("对", "對")] for word in NAMED.findall(text)}
    return named.pop() if len(named) == 1 and not DENIED.search(text) else None
