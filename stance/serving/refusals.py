"""Refusals of a request, in the shape of OpenAI's errors.

OpenAI's client picks its exception class by the status, and shows the message, `param`, `type` and `code` of the body.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.responses import JSONResponse

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""The types of errors by their status; all others are `invalid_request_error`."""


@dataclass(eq=False)
class Refusal(Exception):
    """Why a request does not reach the engine."""

    message: str
    param: str | None = None
    status: int = 400
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> JSONResponse:
        """Return the answer to the client."""
        kind = TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code or self.status}
        return JSONResponse({"error": error}, self.status, dict(self.headers))
