"""The two files of a batch, in the format of OpenAI's batch API: one line per request, and one line per answer.

    {"custom_id": "7", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "aligned", "messages": [...]}}
    {"id": "batch_req_...", "custom_id": "7", "response": {"status_code": 200, "request_id": "...", "body": {...}},
     "error": null}

A request may also be a plain row: `{"id": 7, "prompt": "..."}`. While a batch runs, answers are in the order in which
they arrived. If the batch is killed, its last line may be incomplete.
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
PREFIX = b'{"id": "batch_req_'
"""The beginning of every line in the file of answers."""
REPORTED = 5
"""Wrong lines that an error describes; of the others it gives the number only."""


class Request(NamedTuple):
    """One request, named by its id. Its body has no model until one is chosen."""

    custom_id: str
    body: dict[str, Any]
    is_plain: bool = False
    """Whether the row was a plain one: an id and a prompt."""

    @property
    def ident(self) -> str:
        """Return a name made from the contents; another prompt, model or option gives another name."""
        text = json.dumps([self.custom_id, self.body], sort_keys=True)
        return f"batch_req_{hashlib.sha256(text.encode()).hexdigest()[:24]}"

    def completed(self, model: str, always: bool, system: str | None, max_tokens: int | None) -> "Request":
        """Return the request with all settings that its row does not have.

        Args:
            model: The model to ask.
            always: Whether this model is asked even if the row names another one.
            system: The system prompt of plain rows, if any.
            max_tokens: The limit of an answer in tokens, for rows without a limit.
        """
        body = {"model": model, **self.body, **({"model": model} if always else {})}
        if self.is_plain and system:
            body["messages"] = conversation(system, body["messages"][0]["content"])
        if max_tokens is not None and not body.keys() & {"max_tokens", "max_completion_tokens"}:
            body["max_tokens"] = max_tokens
        return Request(self.custom_id, body, self.is_plain)


def read_requests(path: Path) -> list[Request]:
    """Return the requests in a file.

    Raises:
        InputError: There are none, or lines are wrong; the error names the lines and their problems.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); expected a file of JSON lines in UTF-8") from None
    requests: dict[str, Request] = {}
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            request = _request(line)
            if request.custom_id in requests:
                raise ValueError(f"the id {request.custom_id!r} is in the file twice")
            requests[request.custom_id] = request
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = f"; and {len(problems) - REPORTED} more" if len(problems) > REPORTED else ""
        raise InputError(f"{path}: {'; '.join(problems[:REPORTED])}{more}; correct the file, nothing was sent")
    if not requests:
        raise InputError(f'{path} has no request; expected lines like {{"id": 1, "prompt": "..."}}')
    return list(requests.values())


def _request(line: str) -> Request:
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
        line.encode()
        json.dumps(row, ensure_ascii=False).encode()  # "\ud800" is valid JSON, but not text
    except UnicodeEncodeError:
        raise ValueError("half a character (a lone surrogate)") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__} instead of an object")
    if "prompt" in row and "body" not in row:
        return _plain_request(row)
    return _batch_request(row)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _plain_request(row: Mapping[str, Any]) -> Request:
    ident, prompt = row.get("id"), row["prompt"]
    if isinstance(ident, bool) or not isinstance(ident, int | str) or ident == "":
        raise ValueError(f"the id is {ident!r}; expected a number or a text")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"the prompt is {prompt!r:.40}; expected a text")
    return Request(str(ident), {"messages": [{"role": "user", "content": prompt}], "temperature": 0}, is_plain=True)


def _batch_request(row: Mapping[str, Any]) -> Request:
    custom_id, body = row.get("custom_id"), row.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise ValueError(f"custom_id is {custom_id!r:.40}; expected a text, or a row of `id` and `prompt`")
    if row.get("method") != "POST":
        raise ValueError(f"method is {row.get('method')!r:.40}; expected POST")
    if row.get("url") != URL:
        raise ValueError(f"url is {row.get('url')!r:.40}; expected {URL}")
    if not isinstance(body, dict) or not _are_messages(body.get("messages")):
        raise ValueError("body has no messages; expected a list of objects with a role")
    if not isinstance(body.get("model", ""), str):
        raise ValueError(f"body.model is {body['model']!r:.40}; expected a name")
    if body.get("stream"):
        raise ValueError("body.stream is set; remove it, a batch cannot stream")
    return Request(custom_id, body)


def _are_messages(value: object) -> bool:
    if not isinstance(value, list):
        return False
    return bool(value) and all(isinstance(item, dict) and isinstance(item.get("role"), str) for item in value)


def is_answered(row: Mapping[str, Any]) -> bool:
    """Return whether a row has an answer; otherwise it has an error."""
    return row["error"] is None


def encoded(row: Mapping[str, Any]) -> bytes:
    """Return a row of the file of answers as its line."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which a model can produce
        return json.dumps(row).encode() + b"\n"


def resume(file: BinaryIO, path: Path, requests: Sequence[Request]) -> set[str]:
    """Return the ids that an earlier batch answered, and cut off an incomplete last line.

    Args:
        file: The file of answers, open for reading and appending.
        path: Its path, for errors.
        requests: All requests of this batch.

    Raises:
        InputError: The file holds something else, or answers to other requests. The file is not changed.
    """
    idents = {request.custom_id: request.ident for request in requests}
    answered_ids, other_ids, length = set(), [], 0
    for line in lines(file, path):
        row = json.loads(line)
        if row["custom_id"] not in idents or is_answered(row) and row["id"] != idents[row["custom_id"]]:
            other_ids.append(row["custom_id"])
        elif is_answered(row):
            answered_ids.add(row["custom_id"])
        length += len(line)
    if other_ids:
        raise InputError(
            f"{path} holds {len(other_ids)} answers to other requests (the first: {other_ids[0]!r}), because prompts, "
            "model or options were different; name another file for the answers, or remove this one"
        )
    file.truncate(length)
    return answered_ids


def lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield the lines of a file of answers, without an incomplete last line.

    Raises:
        InputError: A line is not an answer.
    """
    file.seek(0)
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n") and line[: len(PREFIX)] == PREFIX[: len(line)]:
            return
        if not line.startswith(PREFIX) or not _is_complete(line):
            raise InputError(
                f"{path}, line {number}, was not written by this program; name another file for the answers"
            )
        yield line


def _is_complete(line: bytes) -> bool:
    try:
        return set(json.loads(line)) >= {"id", "custom_id", "response", "error"}
    except ValueError:
        return False


def sort_answers(path: Path, requests: Sequence[Request]) -> None:
    """Write one answer per request, in the order of the requests. A kill leaves either the old file or the new one."""
    rows: dict[str, bytes] = {}
    with path.open("rb") as file:
        for line in lines(file, path):
            row = json.loads(line)
            if is_answered(row) or row["custom_id"] not in rows:
                rows[row["custom_id"]] = line
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.writelines(rows[request.custom_id] for request in requests)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
