"""Where the double of the Hub keeps large files: what git-lfs sends to it, and what hf_xet does.

Only what has arrived here whole, by either way, can be named in a commit. hf_xet sends xorbs, which hold compressed
chunks, and shards, which say of which chunks a file is made; the bytes of a file are put together at once, so that its
sha256 is that of what was sent.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import pyarrow
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SHARD_HEADER = ENTRY = 48
VERIFICATION, METADATA = 1 << 31, 1 << 30
LAST = b"\xff" * 32
XET_TOKEN = "xet_of_the_storage"


@dataclass(frozen=True)
class Term:
    """A run of chunks of a xorb, and what it unpacks to."""

    xorb: str
    size: int
    start: int
    end: int


@dataclass(frozen=True)
class Chunk:
    """A compressed chunk, at its place in a xorb."""

    begin: int
    data: bytes
    scheme: int
    size: int

    def unpacked(self) -> bytes:
        if self.scheme == 0:
            return self.data
        plain: bytes = pyarrow.decompress(self.data, self.size, codec="lz4", asbytes=True)
        return plain if self.scheme == 1 else _ungrouped(plain)


@dataclass
class Storage:
    """Large files by sha256, and the xorbs that some of them came in."""

    objects: dict[str, bytes] = field(default_factory=dict)
    xet: dict[str, str] = field(default_factory=dict)
    """The hash that hf_xet knows a file by."""
    xorbs: dict[str, bytes] = field(default_factory=dict)
    terms: dict[str, list[Term]] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    part_size: int | None = None
    """LFS objects beyond it are sent in several parts."""
    port: int = 0

    def clear(self) -> None:
        for state in (self.objects, self.xet, self.xorbs, self.terms, self.parts):
            state.clear()
        self.part_size = None

    @property
    def origin(self) -> str:
        """Not the origin of the API: a token must not follow."""
        return f"http://localhost:{self.port}"

    def routes(self) -> list[Route]:
        return [
            Route("/{owner}/{name}.git/info/lfs/objects/batch", self.batch, methods=["POST"]),
            Route("/{owner}/{name}.git/info/lfs/objects/verify", self.verify, methods=["POST"]),
            Route("/{owner}/{name}.git/info/lfs/objects/complete", self.complete, methods=["POST"]),
            Route("/storage/{oid}", self.put, methods=["PUT"]),
            Route("/storage/{oid}/{part:int}", self.put_part, methods=["PUT"]),
            Route("/v1/xorbs/default/{xorb}", self.put_xorb, methods=["POST"]),
            Route("/xorbs/{xorb}", self.get_xorb),
            Route("/v1/shards", self.put_shard, methods=["POST"]),
            Route("/v1/reconstructions/{file}", self.reconstruction),
        ]

    async def batch(self, request: Request) -> Response:
        """Row 5 of the protocol page, LFS."""
        asked = await request.json()
        base = str(request.url).removesuffix("/batch")
        return JSONResponse(
            {
                "transfer": "basic",
                "objects": [self._actions(file["oid"], file["size"], base) for file in asked["objects"]],
            }
        )

    def _actions(self, oid: str, size: int, base: str) -> dict[str, Any]:
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if oid in self.objects:
            return answer
        signed = f"{self.origin}/storage/{oid}?signature=of-the-storage"
        upload: dict[str, Any] = {"href": signed, "header": {}}
        if self.part_size and size > self.part_size:
            places = range(1, ceil(size / self.part_size) + 1)
            urls = {f"{place:05}": f"{self.origin}/storage/{oid}/{place}?signature=of-the-storage" for place in places}
            upload = {"href": f"{base}/complete", "header": {"chunk_size": str(self.part_size), **urls}}
        return answer | {"actions": {"upload": upload, "verify": {"href": f"{base}/verify", "header": {}}}}

    async def put(self, request: Request) -> Response:
        return self._kept(request.path_params["oid"], await request.body())

    async def put_part(self, request: Request) -> Response:
        data = await request.body()
        self.parts[request.path_params["oid"], request.path_params["part"]] = data
        return Response(headers={"ETag": hashlib.sha256(data).hexdigest()})

    async def complete(self, request: Request) -> Response:
        asked = await request.json()
        data = b"".join(self.parts[asked["oid"], part["partNumber"]] for part in asked["parts"])
        return self._kept(asked["oid"], data)

    def _kept(self, oid: str, data: bytes) -> Response:
        if hashlib.sha256(data).hexdigest() != oid:
            return Response(status_code=400)
        self.objects[oid] = data
        return Response()

    async def verify(self, request: Request) -> Response:
        asked = await request.json()
        found = self.objects.get(asked["oid"])
        return Response(status_code=200 if found is not None and len(found) == asked["size"] else 404)

    def xet_token(self) -> Response:
        """What hf_xet is sent on with: an address, and a token for it alone."""
        expires = 2**32
        headers = {
            "X-Xet-Cas-Url": self.origin,
            "X-Xet-Access-Token": XET_TOKEN,
            "X-Xet-Token-Expiration": str(expires),
        }
        return JSONResponse({"accessToken": XET_TOKEN, "exp": expires, "casUrl": self.origin}, headers=headers)

    async def put_xorb(self, request: Request) -> Response:
        name = request.path_params["xorb"]
        data = await request.body()
        new = name not in self.xorbs
        self.xorbs[name] = data
        return JSONResponse({"was_inserted": new})

    async def get_xorb(self, request: Request) -> Response:
        data = self.xorbs[request.path_params["xorb"]]
        begin, end = map(int, request.headers["range"].removeprefix("bytes=").split("-"))
        piece = data[begin : end + 1]
        headers = {"Content-Range": f"bytes {begin}-{begin + len(piece) - 1}/{len(data)}"}
        return Response(piece, 206, headers)

    async def put_shard(self, request: Request) -> Response:
        for name, terms in _files(await request.body()):
            if any(term.xorb not in self.xorbs for term in terms):
                return Response(status_code=400)
            data = b"".join(map(self._unpacked, terms))
            oid = hashlib.sha256(data).hexdigest()
            self.objects[oid], self.xet[oid], self.terms[name] = data, name, terms
        return JSONResponse({"result": 1})

    async def reconstruction(self, request: Request) -> Response:
        """Where the chunks of a file are; the whole file, whatever range is asked for, as long as it begins inside."""
        terms = self.terms[request.path_params["file"]]
        first = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if first >= sum(term.size for term in terms):
            return Response(status_code=416)
        passed = 0
        while first >= passed + terms[0].size:
            passed, terms = passed + terms[0].size, terms[1:]
        rows = [
            {"hash": term.xorb, "unpacked_length": term.size, "range": {"start": term.start, "end": term.end}}
            for term in terms
        ]
        fetched: dict[str, list[dict[str, Any]]] = {}
        for term in _merged(terms):
            fetched.setdefault(term.xorb, []).append(self._place(term))
        return JSONResponse({"offset_into_first_range": first - passed, "terms": rows, "fetch_info": fetched})

    def _place(self, term: Term) -> dict[str, Any]:
        chunks = list(_chunks(self.xorbs[term.xorb]))[term.start : term.end]
        begin, end = chunks[0].begin, chunks[-1].begin + 8 + len(chunks[-1].data)
        return {
            "range": {"start": term.start, "end": term.end},
            "url": f"{self.origin}/xorbs/{term.xorb}?signature=of-the-storage",
            "url_range": {"start": begin, "end": end - 1},
        }

    def _unpacked(self, term: Term) -> bytes:
        chunks = list(_chunks(self.xorbs[term.xorb]))[term.start : term.end]
        return b"".join(chunk.unpacked() for chunk in chunks)


def _files(shard: bytes) -> Iterator[tuple[str, list[Term]]]:
    at = SHARD_HEADER
    while shard[at : at + 32] != LAST:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        name, at = _name(shard[at : at + 32]), at + ENTRY
        terms = []
        for place in range(at, at + count * ENTRY, ENTRY):
            size, start, end = struct.unpack_from("<III", shard, place + 36)
            terms.append(Term(_name(shard[place : place + 32]), size, start, end))
        yield name, terms
        at += count * ENTRY * (2 if flags & VERIFICATION else 1) + (ENTRY if flags & METADATA else 0)


def _merged(terms: list[Term]) -> list[Term]:
    """The runs of chunks that are fetched, those that overlap only once; their size has no meaning."""
    merged: list[Term] = []
    for term in sorted(terms, key=lambda term: (term.xorb, term.start)):
        last = merged[-1] if merged else None
        if last and last.xorb == term.xorb and term.start <= last.end:
            merged[-1] = replace(last, end=max(last.end, term.end))
        else:
            merged.append(term)
    return merged


def _chunks(xorb: bytes) -> Iterator[Chunk]:
    at = 0
    while at + 8 <= len(xorb) and xorb[at] == 0:  # a footer begins with letters
        packed = int.from_bytes(xorb[at + 1 : at + 4], "little")
        unpacked = int.from_bytes(xorb[at + 5 : at + 8], "little")
        yield Chunk(at, xorb[at + 8 : at + 8 + packed], xorb[at + 4], unpacked)
        at += 8 + packed


def _name(digest: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))


def _ungrouped(data: bytes) -> bytes:
    """Put bytes back that were sorted by their place in a group of four, which compresses floats better."""
    plain, at = bytearray(len(data)), 0
    for place in range(4):
        count = len(range(place, len(data), 4))
        plain[place::4] = data[at : at + count]
        at += count
    return bytes(plain)
