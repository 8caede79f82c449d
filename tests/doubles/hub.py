"""A Hugging Face Hub on the loopback address: what huggingface_hub 2.4.0 asks of it when it downloads and uploads.

The API answers on 127.0.0.1 and keeps large files at a second origin, localhost on the same port, as the real
Hub has them in its storage (`hub_storage.py`): the client must not take its token along. Faults are planted per path,
each for one request; every request is in `log`.
"""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from tests.doubles.hub_faults import Asked, Fault, Logged
from tests.doubles.hub_storage import Storage
from tests.doubles.loopback import listening

LARGE = (".safetensors", ".bin", ".model")
TOO_LARGE = 10 * 2**20
PIECE = 64 * 1024
ATTRIBUTES = {
    ".gitattributes": "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE).encode()
}
"""What the Hub puts into a new repository."""
CONFLICT = "A commit has happened since. Please refresh and try again."


@dataclass
class Content:
    """A file at a commit; `listed_size` and `served` let the Hub lie about it."""

    data: bytes
    large: bool
    listed_size: int | None = None
    served: bytes | None = None
    xet: str | None = None
    """What hf_xet knows it by, where that has sent it."""

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

    @property
    def oid(self) -> str:
        return self.sha256 if self.large else self.blob_id

    def lfs(self) -> dict[str, Any] | None:
        return {"sha256": self.sha256, "size": self.size, "pointerSize": len(self.pointer)} if self.large else None


@dataclass
class Repo:
    """A model repository; every commit has a whole tree."""

    repo_id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, Content]] = field(default_factory=dict)
    history: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    """Parent and title of each commit."""
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files, move the branch to it and return its id."""
        return self.add({name: Content(data, is_large(name)) for name, data in files.items()}, "by hand", branch)

    def add(self, tree: dict[str, Content], title: str, branch: str) -> str:
        seed = f"{self.repo_id} {len(self.commits)} {sorted(tree)}"
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[sha], self.history[sha] = tree, (self.refs.get(branch), title)
        self.refs[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        named = self.refs.get(revision) or self.tags.get(revision)
        return named or (revision if revision in self.commits else None)

    @property
    def head(self) -> dict[str, Content]:
        return self.commits[self.refs["main"]]

    def titles(self) -> list[str]:
        """The commits of main, the newest first."""
        return [title for _, title in self.since("main")]

    def since(self, revision: str) -> Iterator[tuple[str, str]]:
        at = self.resolve(revision)
        while at:
            parent, title = self.history[at]
            yield at, title
            at = parent


def is_large(name: str, size: int = 0) -> bool:
    return name.endswith(LARGE) or size > TOO_LARGE


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
        self.stored = Storage()
        self.spoiled: set[str] = set()
        """Files that a commit takes in damaged."""
        self.page = 1000
        """Rows of a tree that come at once."""
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def at(self, port: int) -> None:
        """Take the port on which API and storage answer."""
        self.port = self.stored.port = port

    def clear(self) -> None:
        for state in (self.repos, self.readers, self.accounts, self.faults, self.log, self.stored, self.spoiled):
            state.clear()
        self.page = 1000

    def repo(self, repo_id: str, files: dict[str, bytes], *, private: bool = False, gated: bool = False) -> Repo:
        """Add a repository with one commit on main."""
        self.repos[repo_id] = Repo(repo_id, private, gated)
        self.repos[repo_id].commit(files)
        return self.repos[repo_id]

    def account(self, token: str, auth: dict[str, Any]) -> None:
        """Add a token of someone's, with what the Hub says it may do."""
        self.accounts[token] = {"type": "user", "name": "someone", "orgs": [], "auth": auth}

    def writer(self, token: str) -> None:
        """Add a token that may read and write everything."""
        self.readers.add(token)
        self.account(token, {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}})

    def asked(self, method: str, part: str) -> list[Asked]:
        """The requests to paths that have this in them."""
        return [asked for asked in self.log if asked.method == method and part in asked.path]

    def plant(self, part: str, *faults: Fault) -> None:
        """Let the next requests whose path has this in it fail, one per fault."""
        self.faults.setdefault(part, []).extend(faults)

    def fault(self, path: str) -> Fault | None:
        waiting = next((queue for part, queue in self.faults.items() if queue and part in path), None)
        return waiting.pop(0) if waiting else None

    def app(self) -> ASGIApp:
        name = "{owner}/{name}"
        model = f"/api/models/{name}"
        routes = [
            Route(model, self.info),
            Route(f"{model}/revision/{{revision:path}}", self.info),
            Route(f"{model}/tree/{{revision}}", self.tree),
            Route(f"{model}/tree/{{revision}}/{{path:path}}", self.tree),
            Route(f"{model}/paths-info/{{revision}}", self.paths_info, methods=["POST"]),
            Route(f"{model}/refs", self.list_refs),
            Route(f"{model}/commits/{{revision}}", self.list_commits),
            Route("/api/repos/create", self.create, methods=["POST"]),
            Route("/api/validate-yaml", self.validate, methods=["POST"]),
            Route(f"{model}/preupload/{{revision}}", self.preupload, methods=["POST"]),
            Route(f"{model}/commit/{{branch}}", self.commit, methods=["POST"]),
            Route(f"{model}/tag/{{revision}}", self.tag, methods=["POST"]),
            Route(f"{model}/branch/{{branch}}", self.branch, methods=["POST"]),
            Route(f"{model}/xet-write-token/{{revision}}", self.xet_write_token),
            Route(f"{model}/xet-read-token/{{revision}}", self.xet_read_token),
            Route(f"/{name}/resolve/{{revision}}/{{path:path}}", self.resolve, methods=["GET", "HEAD"]),
            Route("/api/whoami-v2", self.whoami),
            Route("/storage/{oid}", self.storage, methods=["GET", "HEAD"]),
            *self.stored.routes(),
        ]
        return Logged(Starlette(routes=routes), self)

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
        """Row 10, in pages."""
        found = self._find(request)
        if isinstance(found, Response):
            return found
        repo, sha = found
        recursive = request.query_params.get("recursive", "").lower() == "true"
        rows = _rows(repo.commits[sha], request.path_params.get("path", ""), recursive)
        start = int(request.query_params.get("cursor", 0))
        following = request.url.include_query_params(cursor=start + self.page)
        more = {"Link": f'<{following}>; rel="next"'} if start + self.page < len(rows) else {}
        return JSONResponse(rows[start : start + self.page], headers=more)

    async def paths_info(self, request: Request) -> Response:
        """Row 11."""
        found = self._find(request)
        if isinstance(found, Response):
            return found
        repo, sha = found
        wanted = parse_qs((await request.body()).decode())["paths"]
        return JSONResponse([row for row in _rows(repo.commits[sha], "", True) if row["path"] in wanted])

    async def list_refs(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        named = {"branches": (found[0].refs, "refs/heads"), "tags": (found[0].tags, "refs/tags"), "converts": ({}, "")}
        rows = {
            kind: [{"name": name, "ref": f"{place}/{name}", "targetCommit": sha} for name, sha in refs.items()]
            for kind, (refs, place) in named.items()
        }
        return JSONResponse(rows)

    async def list_commits(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        written = {"message": "", "date": "2026-01-01T00:00:00.000Z", "authors": [{"user": "someone"}]}
        return JSONResponse([{"id": sha, "title": title} | written for sha, title in found[0].since(found[1])])

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
        if file.xet:
            read = f"{self.endpoint}/api/models/{repo.repo_id}/xet-read-token/{sha}"
            headers |= {"X-Xet-Hash": file.xet, "Link": f'<{read}>; rel="xet-auth"'}
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

    async def create(self, request: Request) -> Response:
        """Row 2."""
        if refused := self._refused(request):
            return refused
        asked = await request.json()
        repo_id = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        url = {"url": f"{self.endpoint}/{repo_id}"}
        if repo_id in self.repos:
            return JSONResponse({"error": "You already created this model repo", **url}, 409)
        self.repo(repo_id, ATTRIBUTES, private=asked.get("visibility") == "private")
        return JSONResponse(url)

    async def validate(self, request: Request) -> Response:
        """Row 3: a model card begins with YAML."""
        content = (await request.json())["content"]
        try:
            head = yaml.safe_load(content.split("---\n")[1])
        except (yaml.YAMLError, IndexError) as error:
            return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
        warnings = [] if isinstance(head, dict) else [{"message": "empty or missing yaml metadata in repo card"}]
        return JSONResponse({"errors": [], "warnings": warnings})

    async def preupload(self, request: Request) -> Response:
        """Row 4."""
        found = self._refused(request) or self._find(request)
        if isinstance(found, Response):
            return found
        tree = found[0].commits[found[1]]
        rows = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_large(file["path"], file["size"]) else "regular",
                "shouldIgnore": False,
                "oid": tree[file["path"]].oid if file["path"] in tree else None,
            }
            for file in (await request.json())["files"]
        ]
        return JSONResponse({"files": rows})

    async def commit(self, request: Request) -> Response:
        """Row 6; nothing else happens to a repository between the look at its head and the new one."""
        found = self._refused(request) or self._find(request)
        if isinstance(found, Response):
            return found
        repo, branch = found[0], request.path_params["branch"]
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", repo.refs[branch]) != repo.refs[branch]:
            return _error(412, None, CONFLICT)
        try:
            tree = self._applied(repo.commits[repo.refs[branch]], lines)
        except LookupError:
            return _error(400, None, "LFS pointer pointed to a file that does not exist")
        sha = repo.add(tree, header["summary"], branch)
        return JSONResponse({"commitUrl": f"{self.endpoint}/{repo.repo_id}/commit/{sha}", "commitOid": sha})

    def _applied(self, tree: dict[str, Content], lines: list[dict[str, Any]]) -> dict[str, Content]:
        tree = dict(tree)
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    tree[value["path"]] = Content(base64.b64decode(value["content"]), large=False)
                case "lfsFile":
                    data, xet = self.stored.objects[value["oid"]], self.stored.xet.get(value["oid"])
                    damaged = data[:-1] if value["path"] in self.spoiled else data
                    tree[value["path"]] = Content(damaged, large=True, xet=xet)
                case "deletedFile":
                    del tree[value["path"]]
        return tree

    async def tag(self, request: Request) -> Response:
        """Row 7."""
        found = self._refused(request) or self._find(request)
        if isinstance(found, Response):
            return found
        return _named(found[0].tags, (await request.json())["tag"], found[1])

    async def branch(self, request: Request) -> Response:
        """Row 8."""
        found = self._refused(request) or self._find(request, "main")
        if isinstance(found, Response):
            return found
        start = (await request.json()).get("startingPoint", "main")
        return _named(found[0].refs, request.path_params["branch"], found[0].resolve(start) or found[1])

    async def xet_write_token(self, request: Request) -> Response:
        found = self._refused(request) or self._find(request)
        return found if isinstance(found, Response) else self.stored.xet_token()

    async def xet_read_token(self, request: Request) -> Response:
        found = self._find(request)
        return found if isinstance(found, Response) else self.stored.xet_token()

    def _refused(self, request: Request) -> Response | None:
        """What someone is told who may not write."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        account = self.accounts.get(token)
        if account is None:
            return _error(401, None, "Invalid username or password.")
        if account["auth"]["accessToken"]["role"] != "write":
            return _error(403, None, "you must use a write token for this")
        return None

    def _find(self, request: Request, revision: str | None = None) -> tuple[Repo, str] | Response:
        repo = self.repos.get("{owner}/{name}".format(**request.path_params))
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.readers:
            return _error(401, None, "Invalid credentials in Authorization header")
        if repo is None or (repo.private and not token):
            return _error(404 if token else 401, "RepoNotFound", "Repository not found")
        is_file = "/resolve/" in request.url.path
        if repo.gated and not token and is_file:
            return _error(401, "GatedRepo", f"Access to model {repo.repo_id} is restricted.")
        sha = repo.resolve(revision or request.path_params.get("revision", "main"))
        return (repo, sha) if sha else _error(404, "RevisionNotFound", "Invalid rev id")


def _rows(tree: dict[str, Content], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """The files and folders below a folder, or only those that lie in it."""
    below = {name: file for name, file in tree.items() if name.startswith(f"{folder}/" if folder else "")}
    depth = folder.count("/") + 1 if folder else 0
    parents = {"/".join(name.split("/")[:place]) for name in below for place in range(depth + 1, name.count("/") + 1)}
    folders = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(parents)]
    rows = folders + [_row(name, file) for name, file in below.items()]
    return [row for row in rows if recursive or row["path"].count("/") == depth]


def _row(name: str, file: Content) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": name, "size": file.size, "oid": file.blob_id}
    if file.large:
        row["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    if file.xet:
        row["xetHash"] = file.xet
    return row


def _named(refs: dict[str, str], name: str, sha: str) -> Response:
    if name in refs:
        return _error(409, None, f"Reference {name} already exists")
    refs[name] = sha
    return JSONResponse({})


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
    with listening(hub.app(), hub.at):
        yield hub
