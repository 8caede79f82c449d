"""Middleware of an engine that answers `GET /provenance` and names the release in a header of every answer.

vLLM loads it by `--middleware stance.serving.middleware.Provenance`. The engine itself answers, so that after a swap no
client gets the provenance of the previous model.
"""

import json
import os
from pathlib import Path

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FILE = "STANCE_PROVENANCE"
"""The environment variable with the path of the provenance file."""
PATH = "/provenance"
HEADER = "x-release"


class Provenance:
    """Answers `GET /provenance` with a file, and adds the header `x-release` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        """Read the file that the environment names."""
        self.app = app
        self.body = Path(os.environ[FILE]).read_bytes()
        self.header = (HEADER.encode(), json.loads(self.body)["release"].encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] == PATH and scope["method"] == "GET":
            await Response(self.body, media_type="application/json")(scope, receive, self._named(send))
        else:
            await self.app(scope, receive, self._named(send))

    def _named(self, send: Send) -> Send:
        async def with_release(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), self.header]
            await send(message)

        return with_release
