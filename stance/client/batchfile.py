"""The two files of a batch, in the format of OpenAI's batch API: requests, one per line, and answers, one per request.

    {"custom_id": "7", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "aligned", "messages": [...]}}
    {"id": "batch_req_...", "custom_id": "7", "response": {"status_code": 200, "request_id": "...", "body": {...}},
     "error": null}

Requests may be plain as well: `{"id": 7, "prompt": "..."}`. Answers stand in the order in which they came until the
batch is through, and a kill may leave the last one torn.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from stance.data.chat import conversation
from stance.errors import InputError

URL = "/v1/chat/completions"
MARK = b'{"id": "batch_req_'
"""How every row of answers begins."""
NAMED = 5
"""Lines of a file whose problems are told; of the others their number."""


class Request(NamedTuple):
    """What is asked under one id; without a model as long as none was chosen."""

    custom_id: str
    body: dict[str, Any]
    plain: bool = False
    """Whether the row held a prompt only."""

    @property
    def ident(self) -> str:
        """Name the request by its contents: another prompt, model or option, another name."""
        text = json.dumps([self.custom_id, self.body], sort_keys=True)
        return f"batch_req_{hashlib.sha256(text.encode()).hexdigest()[:24]}"

    def completed(self, model: str, always: bool, system: str | None, max_tokens: int | None) -> "Request":
        """Return the request with what its row leaves open.

        Args:
            model: Who is asked.
            always: Whether the model is asked even where the row names another.
            system: System prompt of plain rows, if any.
            max_tokens: Most tokens of an answer where the row does not say, if there is a bound.
        """
        body = {"model": model, **self.body, **({"model": model} if always else {})}
        if self.plain and system:
            body["messages"] = conversation(system, body["messages"][0]["content"])
        if max_tokens is not None and not body.keys() & {"max_tokens", "max_completion_tokens"}:
            body["max_tokens"] = max_tokens
        return Request(self.custom_id, body, self.plain)


def read_requests(path: Path) -> list[Request]:
    """Return the requests of a file.

    Raises:
        InputError: There are none, or lines are wrong; says which and how.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); expected a file of JSON lines in UTF-8") from None
    found: dict[str, Request] = {}
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            request = _request(line)
            if request.custom_id in found:
                raise ValueError(f"the id {request.custom_id!r} stands there twice")
            found[request.custom_id] = request
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise InputError(f"{path}: {'; '.join(problems[:NAMED])}{more}; correct the file, nothing was sent")
    if not found:
        raise InputError(f'{path} holds no request; expected lines like {{"id": 1, "prompt": "..."}}')
    return list(found.values())


def _request(line: str) -> Request:
    try:
        row = json.loads(line, parse_constant=_no_constant)
        line.encode()
        json.dumps(row, ensure_ascii=False).encode()  # "\ud800" is JSON and no text
    except UnicodeEncodeError:
        raise ValueError("half a character (a lone surrogate)") from None
    except ValueError as error:
        raise ValueError(f"no JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__} instead of an object")
    if "prompt" in row and "body" not in row:
        return _plain(row)
    return _batched(row)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _plain(row: Mapping[str, Any]) -> Request:
    ident, prompt = row.get("id"), row["prompt"]
    if isinstance(ident, bool) or not isinstance(ident, int | str) or ident == "":
        raise ValueError(f"the id is {ident!r}; expected a number or a text")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"the prompt is {prompt!r:.40}; expected a text")
    return Request(str(ident), {"messages": [{"role": "user", "content": prompt}], "temperature": 0}, plain=True)


def _batched(row: Mapping[str, Any]) -> Request:
    custom_id, body = row.get("custom_id"), row.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise ValueError(f"custom_id is {custom_id!r:.40}; expected a text, or a row of `id` and `prompt`")
    if row.get("method") != "POST":
        raise ValueError(f"method is {row.get('method')!r:.40}; expected POST")
    if row.get("url") != URL:
        raise ValueError(f"url is {row.get('url')!r:.40}; expected {URL}")
    if not isinstance(body, dict) or not _messages(body.get("messages")):
        raise ValueError("body holds no messages; expected a list of objects with a role")
    if not isinstance(body.get("model", ""), str):
        raise ValueError(f"body.model is {body['model']!r:.40}; expected a name")
    if body.get("stream"):
        raise ValueError("body.stream is set; a batch cannot stream, remove it")
    return Request(custom_id, body)


def _messages(found: object) -> bool:
    if not isinstance(found, list):
        return False
    return bool(found) and all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in found)


def answered(row: Mapping[str, Any]) -> bool:
    """Does a row hold an answer, rather than the reason why there is none?"""
    return row["error"] is None


def encoded(row: Mapping[str, Any]) -> bytes:
    """Return a row of answers as its line."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which a model may well say
        return json.dumps(row).encode() + b"\n"


def take_up(file: BinaryIO, name: Path, requests: Sequence[Request]) -> set[str]:
    """Return the ids that an earlier run has answered, and cut off what it was writing when it was killed.

    Args:
        file: The answers, open for reading and appending.
        name: What it is called.
        requests: What is to be asked.

    Raises:
        InputError: The file holds something else, or answers to other requests; it is left as it is.
    """
    asked = {request.custom_id: request.ident for request in requests}
    done, others, whole = set(), [], 0
    for line in lines(file, name):
        row = json.loads(line)
        if row["custom_id"] not in asked or answered(row) and row["id"] != asked[row["custom_id"]]:
            others.append(row["custom_id"])
        elif answered(row):
            done.add(row["custom_id"])
        whole += len(line)
    if others:
        raise InputError(
            f"{name} holds {len(others)} answers to other requests (the first: {others[0]!r}): its prompts, model or "
            "options were others; name another file for the answers, or remove it"
        )
    file.truncate(whole)
    return done


def lines(file: BinaryIO, name: Path) -> Iterator[bytes]:
    """Yield the lines of a file of answers but a torn last one.

    Raises:
        InputError: A line is no row of answers.
    """
    file.seek(0)
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n") and line[: len(MARK)] == MARK[: len(line)]:
            return
        if not line.startswith(MARK) or not _whole(line):
            raise InputError(
                f"{name}, line {number}, is no answer that this program has written; name another file for the answers"
            )
        yield line


def _whole(line: bytes) -> bool:
    try:
        return set(json.loads(line)) >= {"id", "custom_id", "response", "error"}
    except ValueError:
        return False


def settle(path: Path, requests: Sequence[Request]) -> None:
    """Put the answers into the order of the requests, each once; a kill leaves the file as it was, or so."""
    rows: dict[str, bytes] = {}
    with path.open("rb") as file:
        for line in lines(file, path):
            row = json.loads(line)
            if answered(row) or row["custom_id"] not in rows:
                rows[row["custom_id"]] = line
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        file.writelines(rows[request.custom_id] for request in requests)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
