"""The endpoint: the proxy on the public port, the engine that answers, and the previous engine for a rollback.

The endpoint is one process, in the foreground of `make serve` or detached. It starts an engine, compares it with the
measurements of its run, and only then lets the proxy send requests to it. Orders to change come from
`stance.serving.control`.
"""

import ipaddress
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stance.client.local import key_place, make_key, remove_state, write_state
from stance.errors import InputError
from stance.machine.ports import HOST
from stance.serving import engine as engines
from stance.serving import engine_memory, remains
from stance.serving.candidate import ServableModel
from stance.serving.engine import Engine, ServeRequest
from stance.serving.proxy import DRAIN, NOWHERE, SLOTS, Proxy, Slot, program, require_certificate, require_port
from stance.serving.proxy import LOG as PROXY_LOG

EVERYWHERE = "0.0.0.0"
RESTARTS, PERIOD = 3, 600
"""How often an engine, or HAProxy, may be started again within so many seconds after it has ended by itself."""
Say = Callable[[str], None]


class Budget:
    """How often something may be started again: `RESTARTS` times in any `PERIOD`. What is longer ago does not count."""

    def __init__(self) -> None:
        """Begin with all of it."""
        self.spent: list[float] = []

    def spend(self, ending: str) -> None:
        """Count one start more.

        Raises:
            InputError: Nothing is left; begins with the sentence that says what has ended.
        """
        now = time.monotonic()
        self.spent = [moment for moment in self.spent if now - moment < PERIOD]
        if len(self.spent) >= RESTARTS:
            raise InputError(
                f"{ending}; it was started again {RESTARTS} times within {PERIOD // 60} minutes, and is not once more: "
                "remove the reason, then make serve"
            )
        self.spent.append(now)


class Endpoint:
    """The proxy and the engines behind it."""

    def __init__(
        self, host: str, port: int, certificate: Path | None = None, *, public_pages: bool | None = None
    ) -> None:
        """Refuse a port in use, a wrong certificate and a machine without HAProxy, before anything is started.

        Args:
            host: The address to listen on.
            port: The port to listen on.
            certificate: A PEM file with a certificate and its private key, for TLS.
            public_pages: May everybody read `/metrics` and `/provenance`? By default only on the loopback address.
        """
        require_port(port)
        program()
        if certificate:
            require_certificate(certificate)
        self.host, self.port, self.key, self.certificate = host, port, make_key(), certificate
        self.public_pages = is_loopback(host) if public_pages is None else public_pages
        self.proxy: Proxy | None = None
        self.running: list[Engine] = []
        self.live: Engine | None = None
        self.before: Engine | None = None
        self.slot: Slot = SLOTS[0]
        self.engine_budget, self.proxy_budget = Budget(), Budget()

    @property
    def address(self) -> str:
        """The base URL for a client of the OpenAI API."""
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://{HOST if self.host == EVERYWHERE else self.host}:{self.port}/v1"

    def open(self, request: ServeRequest, say: Say) -> str:
        """Start the first engine and the proxy, and return a line that says what is up.

        Raises:
            InputError: The model is missing, does not fit into memory or does not pass its checks.
        """
        began = time.monotonic()
        candidate = engines.prepare(request, self._next())
        settings = engine_memory.read_settings()
        if short := engine_memory.shortage(candidate, settings, engine_memory.room(candidate)):
            raise InputError(f"{short}; free memory, or set max-num-seqs or max-model-len lower in deploy/vllm.yaml")
        first = self._start(request, candidate, say)
        self.proxy = Proxy(self.host, self.port, self.certificate)
        self.live = first
        self._answer_from(first, self.slot)
        return f"{self.described(first)}  ready after {time.monotonic() - began:.0f} s"

    def swap(self, request: ServeRequest, say: Say) -> str:
        """Let another model answer, without a failed request. The engine that answered before stays for `rollback`.

        If the new engine serves the same release, perhaps with other settings, the engine kept for `rollback` stays.

        Raises:
            InputError: The model is missing or does not pass its checks. The endpoint stays as it was.
        """
        candidate = engines.prepare(request, self._next())
        settings = engine_memory.read_settings()
        if engine_memory.shortage(candidate, settings, engine_memory.room(candidate)) and self.before:
            say(f"ends {self.before.candidate.name}, which was kept for a rollback, for its memory")
            self._retire(self.before)
            self.before = None
        if short := engine_memory.shortage(candidate, settings, engine_memory.room(candidate)):
            return self._replace(request, candidate, short, say)
        fresh = self._start(request, candidate, say)
        assert self.live
        old, again = self.live, alike(self.live, fresh)
        if self.before and not again:
            self._retire(self.before)
        began = time.monotonic()
        self.before, self.live = self.before if again else old, fresh
        self._answer_from(fresh, other(self.slot))
        switched = time.monotonic() - began
        if again:
            self._retire(old)
        return f"{self.described(fresh)}  switched in {1000 * switched:.0f} ms"

    def rollback(self) -> str:
        """Let the model answer again that answered before the last swap.

        Raises:
            InputError: There is no such model.
        """
        if not self.before or not self.before.alive():
            raise InputError(
                "there is no model before this one to go back to; choose one: `python -m stance serve swap --run NAME`"
            )
        began = time.monotonic()
        fresh = self.before
        self.before, self.live = self.live, fresh
        self._answer_from(fresh, other(self.slot))
        return f"{self.described(fresh)}  switched in {1000 * (time.monotonic() - began):.0f} ms"

    def watch(self) -> None:
        """Check the processes, and start again what has ended by itself.

        Raises:
            InputError: The engine or the proxy has ended more often than its budget allows, or does not start again.
        """
        assert self.proxy
        assert self.live
        if self.proxy.process.poll() is not None:
            self._restart_proxy()
        if not self.live.alive():
            self._revive(self.live)
        if self.before and not self.before.alive():
            print(
                f"{self.before.candidate.name}, which was kept for a rollback, has ended: {engines.ending(self.before)}"
            )
            self._end(self.before)
            self.before = None
            self.record()

    def close(self) -> None:
        """Let running requests end, and end everything."""
        if self.proxy:
            self.proxy.leave()
        for engine in list(self.running):
            self._end(engine)
        remains.clear()
        remove_state()

    def exposure(self) -> str:
        """Return a line that says what other machines can see; empty if only this machine can connect."""
        if is_loopback(self.host):
            return ""
        travel = "encrypted" if self.certificate else "unencrypted (--certificate FILE encrypts them)"
        pages = "are open to everybody" if self.public_pages else "need a key (--public-pages opens them to everybody)"
        return (
            f"visible to every machine that reaches {self.host} port {self.port}: keys, questions and answers travel "
            f"{travel}; /metrics (load) and /provenance (parameters, gates, data hashes) {pages}; /health is open"
        )

    def described(self, engine: Engine) -> str:
        """Return a line that says which model answers."""
        candidate = engine.candidate
        released = "" if candidate.released else " (unreleased)"
        merged = "" if not candidate.adapter else "  base and unmerged adapter"
        return f"up: {self.address}  release {candidate.release}{released}{merged}  key in {key_place()}"

    def record(self) -> None:
        """Write down which models are in use, for the commands that ask."""
        write_state(
            {
                "address": self.address,
                "port": self.port,
                "key": key_place(),
                "live": shown(self.live),
                "previous": shown(self.before),
            }
        )

    def _next(self) -> int:
        """Return a free number for an engine, after which its files are named."""
        taken = {engine.number for engine in self.running}
        return next(number for number in range(1, len(taken) + 2) if number not in taken)

    def _start(self, request: ServeRequest, candidate: ServableModel, say: Say) -> Engine:
        began = time.monotonic()
        say(f"starts an engine for {candidate.name}")
        fresh = engines.start(request, candidate, self._next(), self.key, private_pages=not self.public_pages)
        self.running.append(fresh)
        try:
            remains.write(self.running)
            engines.await_ready(fresh)
            remains.write(self.running)
            for line in engines.check(fresh, self.key):
                say(f"  {line}")
        except BaseException:
            self._end(fresh)
            raise
        fresh.ready = time.monotonic()
        fresh.seconds = fresh.ready - began
        return fresh

    def _revive(self, ended: Engine) -> None:
        """Start the engine again that should answer. Requests wait in the proxy until it is up."""
        ending = f"the engine of {ended.candidate.name} has ended by itself ({engines.ending(ended)})"
        self.engine_budget.spend(ending)
        print(f"{ending}; it is started again, and requests wait", flush=True)
        self._end(ended)
        self.live = self._again(ended, aloud)
        self._answer_from(self.live, self.slot)

    def _restart_proxy(self) -> None:
        """Start HAProxy again that has ended by itself. The engines stay, and so do their models."""
        assert self.proxy
        assert self.live
        ending = f"HAProxy has ended by itself; {PROXY_LOG} may say why"
        self.proxy_budget.spend(ending)
        print(f"{ending}; it is started again", flush=True)
        self.proxy.end()
        self.proxy = Proxy(self.host, self.port, self.certificate)
        self._answer_from(self.live, self.slot)

    def _again(self, ended: Engine, say: Say) -> Engine:
        """Start an engine for the model of one that has ended, if the model is still there."""
        checked = ended.candidate  # the tree may have been edited since for the next run
        candidate = checked if checked.untouched() else engines.prepare(ended.request, self._next())
        if candidate.release != ended.candidate.release:
            raise InputError(
                f"{ended.candidate.name} is not there any more (found {candidate.release} in its place); serve a run "
                "of its own: make serve RUN=NAME"
            )
        return self._start(ended.request, candidate, say)

    def _replace(self, request: ServeRequest, candidate: ServableModel, short: str, say: Say) -> str:
        """End one engine and start the other, where memory has no room for two. Requests wait in the proxy."""
        assert self.proxy
        assert self.live
        say(f"{short}: no room for two engines, so that requests wait until the new one is up")
        old, began = self.live, time.monotonic()
        slot = other(self.slot)
        self.proxy.move(slot, NOWHERE)
        self.proxy.switch(slot)
        if not self.proxy.drained(self.slot):
            say(f"requests ran on after {DRAIN} s and were cut off")
        self.slot = slot
        self._end(old)
        try:
            self.live = self._start(request, candidate, say)
        except Exception as error:
            try:
                self.live = self._again(old, aloud)  # the sender of the order may have left
            except InputError as worse:
                raise InputError(f"{error}; and {old.candidate.name} does not start again: {worse}") from None
            self._answer_from(self.live, slot)
            raise InputError(
                f"{error}; {old.candidate.name} answers again after {time.monotonic() - began:.0f} s"
            ) from None
        self._answer_from(self.live, slot)
        return f"{self.described(self.live)}  requests waited for {time.monotonic() - began:.0f} s"

    def _answer_from(self, engine: Engine, slot: Slot) -> None:
        assert self.proxy
        self.proxy.move(slot, engine.port)
        self.proxy.switch(slot)
        self.slot = slot
        self.record()

    def _retire(self, engine: Engine) -> None:
        """End an engine after its running requests have ended."""
        if self.proxy and self.proxy.process.poll() is None:
            self.proxy.drained(other(self.slot))
        self._end(engine)

    def _end(self, engine: Engine) -> None:
        engine.end()
        if engine in self.running:  # `_start` ends an engine that fails
            self.running.remove(engine)


def aloud(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def is_loopback(host: str) -> bool:
    """Does an address belong to this machine alone?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def other(slot: Slot) -> Slot:
    """Return the slot beside a slot."""
    return SLOTS[1 - SLOTS.index(slot)]


def alike(one: Engine, another: Engine) -> bool:
    """Do two engines serve the same release in the same way?"""
    return (one.candidate.release, one.candidate.rank) == (another.candidate.release, another.candidate.rank)


def shown(engine: Engine | None) -> dict[str, Any] | None:
    """Return the entry of an engine in the state file."""
    if not engine:
        return None
    return {
        "release": engine.candidate.release,
        "released": engine.candidate.released,
        "name": engine.candidate.name,
        "folder": engine.request.run,
        "request": engine.request.model_dump(mode="json", exclude={"digests"}),
        "engine": engine.address,
        "log": str(engine.log),
        "seconds": round(engine.seconds, 1),
    }
