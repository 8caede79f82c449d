"""A Hugging Face Hub on the loopback address: what huggingface_hub 2.4.0 asks of it when it downloads.

The API answers on 127.0.0.1 and sends large files to a second origin, localhost on the same port, as the real
Hub sends them to its storage: the client must not take its token along. Faults are planted per path, each for
one request; every request is in `log`.
"""

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

LARGE = (".safetensors", ".bin", ".model")
PIECE = 64 * 1024


@dataclass(frozen=True)
class Fault:
    """What happens to one request: another status, a body that is cut, or a late answer."""

    kind: Literal["status", "cut", "slow"]
    status: int = 503
    after: int = 0
    """Bytes that still arrive before the connection is cut."""
    seconds: float = 0.0
    """How late the answer is."""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One request, as it arrived."""

    method: str
    host: str
    path: str
    range: str | None
    authorization: str | None
    status: int


@dataclass
class Content:
    """A file at a commit; `listed_size` and `served` let the Hub lie about it."""

    data: bytes
    large: bool
    listed_size: int | None = None
    served: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.data) if self.listed_size is None else self.listed_size

    @property
    def body(self) -> bytes:
        return self.data if self.served is None else self.served

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git stores in place of a large file."""
        lines = (
            "version https://git-lfs.github.com/spec/v1",
            f"oid sha256:{self.sha256}",
            f"size {self.size}",
            "",
        )
        return "\n".join(lines).encode()

    @property
    def blob_id(self) -> str:
        content = self.pointer if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def lfs(self) -> dict[str, Any] | None:
        return {"sha256": self.sha256, "size": self.size, "pointerSize": len(self.pointer)} if self.large else None


@dataclass
class Repo:
    """A model repository; every `commit` adds a whole tree."""

    repo_id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, Content]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files, move the branch to it and return its id."""
        seed = f"{self.repo_id} {len(self.commits)} {sorted(files)}"
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[sha] = {name: Content(data, name.endswith(LARGE)) for name, data in files.items()}
        self.refs[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)


class Hub:
    """The double's state, and the answers it gives."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.readers: set[str] = set()
        """Tokens that are known; each may read private and gated repositories."""
        self.accounts: dict[str, dict[str, Any]] = {}
        """What the Hub says of a token, where it knows whose it is."""
        self.faults: dict[str, list[Fault]] = {}
        self.log: list[Asked] = []
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def clear(self) -> None:
        for state in (self.repos, self.readers, self.accounts, self.faults, self.log):
            state.clear()

    def repo(self, repo_id: str, files: dict[str, bytes], *, private: bool = False, gated: bool = False) -> Repo:
        """Add a repository with one commit on main."""
        self.repos[repo_id] = Repo(repo_id, private, gated)
        self.repos[repo_id].commit(files)
        return self.repos[repo_id]

    def account(self, token: str, auth: dict[str, Any]) -> None:
        """Add a token of someone's, with what the Hub says it may do."""
        self.accounts[token] = {"type": "user", "name": "someone", "orgs": [], "auth": auth}

    def plant(self, ending: str, *faults: Fault) -> None:
        """Let the next requests whose path ends so fail, one per fault."""
        self.faults.setdefault(ending, []).extend(faults)

    def fault(self, path: str) -> Fault | None:
        waiting = next((queue for ending, queue in self.faults.items() if queue and path.endswith(ending)), None)
        return waiting.pop(0) if waiting else None

    def app(self) -> Starlette:
        name = "{owner}/{name}"
        routes = [
            Route(f"/api/models/{name}", self.info),
            Route(f"/api/models/{name}/revision/{{revision:path}}", self.info),
            Route(f"/api/models/{name}/tree/{{revision}}", self.tree),
            Route(f"/{name}/resolve/{{revision}}/{{path:path}}", self.resolve, methods=["GET", "HEAD"]),
            Route("/api/whoami-v2", self.whoami),
            Route("/storage/{oid}", self.storage, methods=["GET", "HEAD"]),
        ]
        return Starlette(routes=routes, middleware=[Middleware(_Logged, hub=self)])

    async def info(self, request: Request) -> Response:
        """Row 9 of the protocol page."""
        found = self._find(request)
        if isinstance(found, Response):
            return found
        repo, sha = found
        siblings = [
            {"rfilename": name, "size": file.size, "blobId": file.blob_id, "lfs": file.lfs()}
            for name, file in repo.commits[sha].items()
        ]
        if "blobs" not in request.query_params:
            siblings = [{"rfilename": file["rfilename"]} for file in siblings]
        answer = {"id": repo.repo_id, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []}
        return JSONResponse(answer)

    async def tree(self, request: Request) -> Response:
        """Row 10."""
        found = self._find(request)
        if isinstance(found, Response):
            return found
        repo, sha = found
        return JSONResponse([_row(name, file) for name, file in repo.commits[sha].items()])

    async def resolve(self, request: Request) -> Response:
        """Row 12: small files themselves, large ones by way of the storage origin."""
        found = self._find(request)
        if isinstance(found, Response):
            return found
        repo, sha = found
        file = repo.commits[sha].get(request.path_params["path"])
        if file is None:
            return _error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.blob_id}"'}
        if not file.large:
            return _body(request, file, headers)
        headers |= {
            "X-Linked-Etag": f'"{file.sha256}"',
            "X-Linked-Size": str(file.size),
            "Location": f"http://localhost:{self.port}/storage/{file.sha256}?signature=of-the-storage",
        }
        return Response(status_code=302, headers=headers)

    async def storage(self, request: Request) -> Response:
        """What the signed address of a large file leads to; it knows no tokens."""
        oid = request.path_params["oid"]
        trees = (tree for repo in self.repos.values() for tree in repo.commits.values())
        files = [file for tree in trees for file in tree.values() if file.large and file.sha256 == oid]
        return _body(request, files[-1], {"ETag": f'"{oid}"'}) if files else Response(status_code=403)

    async def whoami(self, request: Request) -> Response:
        """Whose the token is."""
        account = self.accounts.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        return JSONResponse(account) if account else _error(401, None, "Invalid username or password.")

    def _find(self, request: Request) -> tuple[Repo, str] | Response:
        repo = self.repos.get("{owner}/{name}".format(**request.path_params))
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.readers:
            return _error(401, None, "Invalid credentials in Authorization header")
        if repo is None or (repo.private and not token):
            return _error(404 if token else 401, "RepoNotFound", "Repository not found")
        is_file = "/resolve/" in request.url.path
        if repo.gated and not token and is_file:
            return _error(401, "GatedRepo", f"Access to model {repo.repo_id} is restricted.")
        sha = repo.resolve(request.path_params.get("revision", "main"))
        return (repo, sha) if sha else _error(404, "RevisionNotFound", "Invalid rev id")


class _Logged:
    """Writes down every request and lets planted faults happen."""

    def __init__(self, app: ASGIApp, hub: Hub) -> None:
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

        if fault and fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        if fault and fault.kind == "status":
            await Response(status_code=fault.status, headers=fault.headers)(scope, receive, noted)
        else:
            await self.app(scope, receive, noted)
        return None


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


def _row(name: str, file: Content) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": name, "size": file.size, "oid": file.blob_id}
    if file.large:
        row["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    return row


def _body(request: Request, file: Content, headers: dict[str, str]) -> Response:
    start, status = 0, 200
    if asked := request.headers.get("range"):
        start, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
        headers |= {"Content-Range": f"bytes {start}-{len(file.body) - 1}/{len(file.body)}"}
    data = file.body[start:]
    headers |= {"Content-Length": str(len(data)), "Accept-Ranges": "bytes"}
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_pieces(data, request.scope["fault"]), status_code=status, headers=headers)


async def _pieces(data: bytes, fault: Fault | None) -> AsyncIterator[bytes]:
    whole = data[: fault.after] if fault and fault.kind == "cut" else data
    for start in range(0, len(whole), PIECE):
        yield whole[start : start + PIECE]
    if fault and fault.kind == "cut":
        raise ConnectionResetError("cut on purpose")


def _error(status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> Response:
    named = {"X-Error-Code": code} if code else {}
    named |= {"X-Error-Message": message} | (headers or {})
    return JSONResponse({"error": message}, status, headers=named)


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve an empty Hub on a free port until the block ends."""
    hub = Hub()
    listener = socket.create_server(("127.0.0.1", 0))
    hub.port = listener.getsockname()[1]
    config = uvicorn.Config(hub.app(), log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
