"""An OpenAI-style endpoint on the loopback address that does as it is told: it echoes questions, or breaks as planned.

Faults are planted per question, each for one request; every request is in `asked`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.doubles.loopback import listening

KEY = "made-up-key-4711"
LIMIT = 200
"""Characters that a question may have."""


@dataclass(frozen=True)
class Fault:
    """What becomes of one request."""

    kind: Literal["status", "cut", "nonsense", "slow"]
    status: int = 503
    message: str = "planted"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class Double:
    """The double's state."""

    def __init__(self) -> None:
        self.port = 0
        self.clear()

    def clear(self) -> None:
        """Forget what was asked and planted."""
        self.models = ["aligned", "r-0f3a9c2b7d11"]
        self.told: dict[str, Any] | None = {"release": "r-0f3a9c2b7d11"}
        self.asked: list[dict[str, Any]] = []
        self.faults: dict[str, list[Fault]] = {}
        self.pause = 0.0
        self.said: Callable[[str, str], str] = lambda model, question: f"{model} on {question}"
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def environment(self) -> dict[str, str]:
        return {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": KEY}

    @property
    def questions(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.asked]

    def fault(self, question: str) -> Fault | None:
        planted = self.faults.get(question)
        return planted.pop(0) if planted else None

    async def models_page(self, request: Request) -> Response:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "us"} for name in self.models]
        return refusal(request) or JSONResponse({"object": "list", "data": data})

    async def provenance(self, request: Request) -> Response:
        return JSONResponse(self.told) if self.told is not None else problem(404, "Not Found")

    async def chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.asked.append(body)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return refusal(request) or await self.reply(body)
        finally:
            self.at_once -= 1

    async def reply(self, body: dict[str, Any]) -> Response:
        question = body["messages"][-1]["content"]
        await asyncio.sleep(self.pause)
        if fault := self.fault(question):
            if fault.kind != "slow":
                return broken(fault)
            await asyncio.sleep(fault.seconds)
        if body["model"] not in self.models:
            return problem(404, f"The model `{body['model']}` does not exist.")
        if len(question) > LIMIT:
            return problem(400, f"This model's maximum context length is {LIMIT} tokens.")
        said = self.said(body["model"], question)
        return (
            StreamingResponse(streamed(body, said), media_type="text/event-stream")
            if body.get("stream")
            else whole(body, said)
        )


def whole(body: dict[str, Any], said: str) -> Response:
    message = {"role": "assistant", "content": said}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
    return JSONResponse(answer, headers={"x-request-id": "asked-1"})


async def streamed(body: dict[str, Any], said: str) -> AsyncIterator[str]:
    words = said.split(" ")
    for n, word in enumerate(words, start=1):
        await asyncio.sleep(0.01)
        last = n == len(words)
        delta = {"content": word if last else f"{word} "}
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if last else None}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
        yield f"data: {json.dumps(chunk | {'choices': [choice]})}\n\n"
        if word == "breaks":
            raise ConnectionAbortedError
    yield "data: [DONE]\n\n"


def refusal(request: Request) -> Response | None:
    return None if request.headers.get("authorization") == f"Bearer {KEY}" else problem(401, f"not {KEY}")


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    error = {"message": message, "type": "planted", "param": None, "code": status}
    return JSONResponse({"error": error}, status, headers)


def broken(fault: Fault) -> Response:
    if fault.kind == "status":
        return problem(fault.status, fault.message, fault.headers)
    if fault.kind == "nonsense":
        return Response("<html>Please log in</html>", media_type="text/html")
    return StreamingResponse(cut(), headers={"content-length": "1000"}, media_type="application/json")


async def cut() -> AsyncIterator[bytes]:
    yield b'{"choices": '
    raise ConnectionAbortedError


@contextmanager
def serving() -> Iterator[Double]:
    """Serve a double on a free port of the loopback address."""
    double = Double()
    routes = [
        Route("/v1/models", double.models_page),
        Route("/v1/chat/completions", double.chat, methods=["POST"]),
        Route("/provenance", double.provenance),
    ]
    with listening(Starlette(routes=routes), lambda port: setattr(double, "port", port)):
        yield double
