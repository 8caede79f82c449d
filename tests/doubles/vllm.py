"""An engine's HTTP server without a model: it says what reached it, behind the real entrance."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from stance.serving.middleware import FILE, KEY, Entrance
from tests.doubles.loopback import listening

OWNER_KEY = "the-owner's-key"
RELEASE = "r-0f3a9c2b7d11"


class Double:
    """What reached the engine."""

    def __init__(self) -> None:
        self.port = 0
        self.bodies: list[dict[str, Any]] = []
        self.clients: list[openai.OpenAI] = []
        self.seconds = 0.0
        """That an answer takes."""

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = OWNER_KEY) -> openai.OpenAI:
        """Return the official client, which is not to try again."""
        client = openai.OpenAI(base_url=f"{self.root}/v1", api_key=key, max_retries=0, timeout=30)
        self.clients.append(client)
        return client

    async def chat(self, request: Request) -> Response:
        self.bodies.append(json.loads(await request.body()))
        await asyncio.sleep(self.seconds)
        message = {"role": "assistant", "content": "yes"}
        choices = [{"index": 0, "finish_reason": "stop", "message": message, "text": "yes"}]
        return JSONResponse({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices})

    async def models(self, request: Request) -> Response:
        return JSONResponse(
            {"object": "list", "data": [{"id": "aligned", "object": "model", "root": "/home/me/data/merged"}]}
        )

    async def page(self, request: Request) -> Response:
        return PlainTextResponse("vllm: 1")


@contextmanager
def serving(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Double]:
    """Serve a double in a folder, which becomes the current one."""
    (folder / "provenance.json").write_text(json.dumps({"release": RELEASE}))
    patch.setenv(FILE, "provenance.json")
    patch.setenv(KEY, OWNER_KEY)
    patch.chdir(folder)
    double = Double()
    routes = [
        *(Route(path, double.chat, methods=["POST"]) for path in ("/v1/chat/completions", "/v1/completions")),
        Route("/v1/models", double.models),
        *(Route(path, double.page) for path in ("/metrics", "/health", "/docs", "/version")),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(Entrance)
    app.build_middleware_stack()
    with listening(app, lambda port: setattr(double, "port", port)):
        yield double
        for client in double.clients:
            client.close()
