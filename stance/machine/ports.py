"""Ports of this machine, and whether a server answers."""

import os
import socket
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import OpenerDirector, ProxyHandler, build_opener

from stance.errors import InputError

HOST = "127.0.0.1"


def port_in(variable: str, usual: int) -> int:
    """Return the port in a variable of the environment, or the usual port if the variable is not set."""
    return parse_port(os.environ.get(variable) or str(usual))


def parse_port(text: str) -> int:
    """Return the port in a text.

    Raises:
        InputError: The text is no number from 1 to 65535.
    """
    if not (text.isdecimal() and 0 < int(text) < 2**16):
        raise InputError(f"the port is {text!r}; expected a number from 1 to 65535")
    return int(text)


def in_use(port: int) -> bool:
    """Does a program listen on the port?"""
    with socket.socket() as attempt:
        return attempt.connect_ex((HOST, port)) == 0


def free_port() -> int:
    """Return a port on which no program listens."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def listens(url: str) -> bool:
    """Does anything answer this URL over HTTP, be it with an error?"""
    try:
        with _opener(url).open(url, timeout=5):
            return True
    except HTTPError:
        return True
    except (OSError, HTTPException, ValueError):
        return False


def _opener(url: str) -> OpenerDirector:
    here = urlsplit(url).hostname in (HOST, "localhost")
    return build_opener(ProxyHandler({})) if here else build_opener()  # this machine is reached without a proxy


def answers(url: str) -> bool:
    """Does a server answer this URL with status 200 and JSON? An HTML page for any address does not count."""
    try:
        with _opener(url).open(url, timeout=5) as response:
            return bool(response.status == 200 and response.headers.get_content_type() == "application/json")
    except (OSError, HTTPException):
        return False
