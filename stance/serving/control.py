"""The control socket of an endpoint that is up, which only its user may open: orders go in, progress comes back.

An order is a line of JSON, `{"order": "swap", "request": {...}}` or `{"order": "rollback"}`. Each line of the answer
has one key: `said` for progress, then `done` or `error`.
"""

import json
import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stance.client.local import SERVE, state
from stance.errors import InputError
from stance.serving.endpoint import Endpoint, Say
from stance.serving.engine import ServeRequest

CONTROL = SERVE / "control.socket"


def stay(endpoint: Endpoint) -> None:
    """Take orders, and watch over the engines, until the process ends."""
    with listening() as listener:
        while True:
            ready, _, _ = select.select([listener], [], [], 1)
            if ready:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(5)
                    serve_order(endpoint, connection)
            endpoint.watch()


@contextmanager
def listening() -> Iterator[socket.socket]:
    """Listen for orders on a socket that no other user may open."""
    CONTROL.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.umask(0o177)
        try:
            listener.bind(str(CONTROL))
        finally:
            os.umask(before)
        listener.listen()
        try:
            yield listener
        finally:
            CONTROL.unlink(missing_ok=True)


def serve_order(endpoint: Endpoint, connection: socket.socket) -> None:
    """Read one order and carry it out. The order ends if its sender leaves before it is done."""

    def tell(kind: str, text: str) -> None:
        print(text, flush=True)
        connection.sendall(f"{json.dumps({kind: text})}\n".encode())

    try:
        order = json.loads(connection.makefile(encoding="utf-8").readline() or "{}")
    except (OSError, ValueError):
        print("an order that could not be read was left alone")
        return
    try:
        kind, text = "done", carry_out(endpoint, order, lambda text: tell("said", text))
    except InputError as error:
        kind, text = "error", str(error)
    except Exception as error:  # no failed order may end the model that answers
        kind, text = "error", f"the order failed ({type(error).__name__}: {error}); see {SERVE}, and give it again"
    with suppress(OSError):
        tell(kind, text)


def carry_out(endpoint: Endpoint, order: dict[str, Any], say: Say) -> str:
    """Carry out an order, and return a line that says which model answers then."""
    match order.get("order"):
        case "swap":
            return endpoint.swap(ServeRequest.model_validate(order["request"]), say)
        case "rollback":
            return endpoint.rollback()
    raise InputError(f"there is no order {order.get('order')!r}; expected swap or rollback")


def give(order: dict[str, Any], say: Say, control: Path = CONTROL) -> str:
    """Send an order to the endpoint that is up, and return the line that says which model answers then.

    Raises:
        InputError: There is no endpoint, or it refuses the order.
    """
    if not state():
        raise InputError("no endpoint is up in this folder; start one: make serve")
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(control))
        except OSError:
            raise InputError("the endpoint of this folder is starting or ending; ask again in a minute") from None
        connection.sendall(f"{json.dumps(order)}\n".encode())
        for line in connection.makefile(encoding="utf-8"):
            reply = json.loads(line)
            if "error" in reply:
                raise InputError(reply["error"])
            if "done" in reply:
                return str(reply["done"])
            say(reply["said"])
    raise InputError(f"the endpoint ended meanwhile; see {SERVE}")
