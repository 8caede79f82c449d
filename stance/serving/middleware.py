"""The entrance of an engine: every request passes here before vLLM sees it.

vLLM loads it by `--middleware stance.serving.middleware.Entrance`. It asks for a key, refuses what exceeds the limits
of `deploy/limits.yaml`, counts what each key has running, answers `GET /provenance`, and names the release in a header
of every answer. The engine itself does all this. So no client gets the provenance of the previous model after a swap,
and whoever reaches the engine's own port meets the same limits.
"""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stance.serving.keys import KEYS, Keys, NamedKey, Share
from stance.serving.limits import BODY, FIELDS, TOKENIZE, Limits, check, read_body
from stance.serving.refusals import Refusal

FILE = "STANCE_PROVENANCE"
"""The environment variable with the path of the provenance file."""
KEY = "STANCE_API_KEY"
"""The environment variable with the owner's key."""
PRIVATE = "STANCE_PRIVATE_PAGES"
"""Set in the environment of an engine if `/metrics` and `/provenance` are for holders of a key only."""
PATH = "/provenance"
HEADER = "x-release"
MODELS = "/v1/models"
PAGES = frozenset(("/metrics", PATH))
METHODS = {**dict.fromkeys(FIELDS, "POST"), **dict.fromkeys((*PAGES, MODELS, "/health"), "GET")}
"""All paths that an engine answers, and the method of each."""
Work = Callable[[Receive, Send], Awaitable[None]]


class Entrance:
    """Lets requests through to vLLM, or answers them itself."""

    def __init__(self, app: ASGIApp) -> None:
        """Read the files that the environment names, and the limits."""
        self.app = app
        self.body = Path(os.environ[FILE]).read_bytes()
        self.header = (HEADER.encode(), json.loads(self.body)["release"].encode())
        self.keys, self.share, self.limits = Keys(os.environ[KEY], KEYS), Share(), Limits.read()
        self.open = frozenset(("/health",)) | (frozenset() if os.environ.get(PRIVATE) else PAGES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. A websocket is closed: nothing here speaks it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            send = self._named(send)
            try:
                await self._admit(scope, receive, send)
            except Refusal as refusal:
                await refusal.response()(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if method == "OPTIONS":  # a browser asks before it sends a key
            await self.app(scope, receive, send)
            return
        require_path(path, method)
        key = None if path in self.open else self.keys.holder(Headers(scope=scope).get("authorization", ""))
        if path == PATH:
            await Response(self.body, media_type="application/json")(scope, receive, send)
        elif path == MODELS:
            await self.app(scope, receive, Rootless(send))
        elif key and path in FIELDS:
            await self._work(scope, receive, send, key)
        else:
            await self.app(scope, receive, send)

    async def _work(self, scope: Scope, receive: Receive, send: Send, key: NamedKey) -> None:
        """Let a request through that asks for work, if it and its key stay within the limits."""
        text = await whole(receive)
        body = read_body(text, self.limits)
        with self.share.taken(key, check(scope["path"], body, self.limits)):
            await self.app(scope, again(text, receive), send)

    def _named(self, send: Send) -> Send:
        async def with_release(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), self.header]
            await send(message)

        return with_release


class Rootless:
    """A `send` for the list of models. vLLM writes the folder of a model as its `root`; the name takes that place."""

    def __init__(self, send: Send) -> None:
        """Take where the list goes."""
        self.send = send
        self.start: Message = {}
        self.body = b""

    async def __call__(self, message: Message) -> None:
        """Keep the answer until it is whole."""
        if message["type"] == "http.response.start":
            self.start = message
            return
        self.body += message.get("body", b"")
        if not message.get("more_body"):
            body = rootless(self.body) if self.start["status"] == 200 else self.body
            headers = [(name, value) for name, value in self.start["headers"] if name.lower() != b"content-length"]
            await self.send({**self.start, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
            await self.send({"type": "http.response.body", "body": body})


def rootless(body: bytes) -> bytes:
    """Return a list of models with each model's name as its `root`."""
    models = json.loads(body)
    for model in models["data"]:
        model["root"] = model["id"]
    return json.dumps(models).encode()


def require_path(path: str, method: str) -> None:
    """Refuse a path or a method that is not answered here.

    Raises:
        Refusal: Names what is.
    """
    if path not in METHODS:
        public = ", ".join(sorted(METHODS.keys() - {TOKENIZE}))
        raise Refusal(f"there is no path {path!r:.100}; expected one of {public}", status=404)
    if method != METHODS[path]:
        message = f"{path} takes no {method!r:.20}; expected {METHODS[path]}"
        raise Refusal(message, status=405, headers={"allow": METHODS[path]})


async def whole(receive: Receive) -> bytes:
    """Return the body of a request.

    Raises:
        Refusal: The body is too large, or the client left before its end.
    """
    text, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal("the client left before the end of the body", status=400)
        text, more = text + message.get("body", b""), message.get("more_body", False)
        if len(text) > BODY:
            raise Refusal(f"the body has more than {BODY} bytes, which is the limit", status=413)
    return text


def again(text: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already, and then what the client does."""
    waiting: list[Message] = [{"type": "http.request", "body": text, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
