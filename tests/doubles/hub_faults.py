"""What goes wrong between a client and the double of the Hub, planted by the tests, and the log of all requests."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from tests.doubles.hub import Hub


@dataclass(frozen=True)
class Fault:
    """What happens to one request: another status, a body that is cut, a late answer, none, or a dropped connection."""

    kind: Literal["status", "cut", "slow", "hang", "drop"]
    status: int = 503
    after: int = 0
    """Bytes that still arrive before the connection is cut."""
    seconds: float = 0.0
    """How late the answer is."""
    headers: dict[str, str] = field(default_factory=dict)
    acts: bool = False
    """Whether the Hub has done by then what it was asked."""


@dataclass(frozen=True)
class Asked:
    """One request, as it arrived."""

    method: str
    host: str
    path: str
    range: str | None
    authorization: str | None
    status: int


class Logged:
    """Writes down every request and lets planted faults happen."""

    def __init__(self, app: ASGIApp, hub: "Hub") -> None:
        self.app, self.hub = app, hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        fault = self.hub.fault(request.url.path)
        scope["fault"] = fault

        async def noted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.hub.log.append(_asked(request, message["status"]))
            await send(message)

        if fault is None or fault.kind == "cut":
            await self.app(scope, receive, noted)
        elif fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
            await self.app(scope, receive, noted)
        else:
            await self._fail(fault, scope, receive, noted)
        return None

    async def _fail(self, fault: Fault, scope: Scope, receive: Receive, noted: Send) -> None:
        if fault.acts:
            await self.app(scope, receive, _unheard)
        if fault.kind == "status":
            await Response(status_code=fault.status, headers=fault.headers)(scope, receive, noted)
            return
        self.hub.log.append(_asked(Request(scope), 0))
        if fault.kind == "drop":
            receive.__self__.transport.abort()  # type: ignore[attr-defined]  # uvicorn's request and response
        while (await receive())["type"] != "http.disconnect":
            pass


async def _unheard(message: Any) -> None:
    """Where an answer goes that is lost."""


def _asked(request: Request, status: int) -> Asked:
    headers = request.headers
    return Asked(
        request.method,
        headers["host"],
        request.url.path,
        headers.get("range"),
        headers.get("authorization"),
        status,
    )
