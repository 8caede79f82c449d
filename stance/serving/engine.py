"""An engine: one vLLM server on a port of its own. How its model is checked, and how it starts, answers and ends.

A `ServeRequest` names a model, `prepare` checks the model's files and returns a `ServableModel`, `start` starts an
`Engine` for it, `await_ready` and `check` make sure that the engine answers as the run has measured.
"""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil
from pydantic import BaseModel, ConfigDict

from stance.client.local import ALIGNED, BASE, SERVE
from stance.data.records import require
from stance.errors import InputError
from stance.inference.environment import ENVIRONMENT, ONE_PROCESS, without_others
from stance.language.messages import sentence
from stance.machine.digests import Digest, hand_over
from stance.machine.files import write_json
from stance.machine.memory import Room, gib
from stance.machine.ports import HOST, free_port
from stance.machine.processes import environment
from stance.machine.supervisor import guarded, release
from stance.serving import engine_memory
from stance.serving.candidate import ServableModel
from stance.serving.engine_memory import CONFIGURATION, cache_bytes, read_settings
from stance.serving.file_checks import NOT_SERVED
from stance.serving.limits import Limits
from stance.serving.live_checks import live_gates
from stance.serving.middleware import FILE, KEY, PRIVATE

GRAMMARS = {"VLLM_XGRAMMAR_CACHE_MB": "64"}
"""Compiled schemas that an engine keeps; vLLM's default is 512 MB, which is no part of what it says it takes."""
START = 900  # seconds; the first start on a bare GPU machine compiles for minutes


class ServeRequest(BaseModel):
    """A model to serve: that of a run's folder, or a release on the Hub."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = ""
    with_base: bool = False
    hub: str | None = None
    revision: str = "main"
    digests: dict[str, Digest] = {}
    """Digests of the run's files that a release has taken already; a file that they fit is not read again."""

    def arguments(self) -> list[str]:
        """Return the arguments of `python -m stance candidate` for this model."""
        if self.hub:
            return ["--hub", self.hub, "--revision", self.revision]
        return ["--run", self.run or ".", *(["--with-base"] if self.with_base else [])]


@dataclass
class Engine:
    """A running engine."""

    number: int
    request: ServeRequest
    candidate: ServableModel
    port: int
    process: "subprocess.Popen[str]"
    scratch: "TemporaryDirectory[str] | None" = None
    """A folder for the sockets that vLLM makes and does not remove."""
    seconds: float = 0.0
    """From the start of the engine until it had passed the checks."""
    ready: float = 0.0
    """When the engine had passed the checks, by the monotonic clock."""
    started: list[psutil.Process] = field(default_factory=list)
    """The guard and all that it had started when the engine was ready."""
    allowed: int = 0
    """Bytes of RAM that the engine may hold."""
    outgrown: int = 0
    """Bytes of RAM that it held when it was ended for holding too much."""
    kills: int = field(default_factory=engine_memory.kills_for_memory)
    """Processes that Linux had ended for memory before the engine started."""

    @property
    def address(self) -> str:
        """The address that the engine listens on."""
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """The file with the engine's output."""
        return log_of(self.number)

    def processes(self) -> list[psutil.Process]:
        """Return the engine's guard and all that it has started, as far as they run."""
        try:
            guard = psutil.Process(self.process.pid)
            return [guard, *guard.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def alive(self) -> bool:
        """Is the engine's process running?"""
        return self.process.poll() is None

    def end(self) -> None:
        """End the engine, and wait until no process of it is left."""
        release(self.process)
        kill_all(self.started)  # what is left if the guard was killed as well
        if self.scratch:
            self.scratch.cleanup()


KEPT = 5
"""Logs of engines that have ended by themselves which are kept."""


def kill_all(processes: list[psutil.Process]) -> None:
    """Kill the processes that still run; psutil does not take another one of the same number for them."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5)


def prepare(request: ServeRequest, number: int) -> ServableModel:
    """Check the files of a model in a process of its own, and return what an engine needs to know of it.

    Raises:
        InputError: The model is missing or does not pass its checks.
    """
    out, digests = SERVE / f"engine-{number}.json", SERVE / f"digests-{number}.json"
    out.unlink(missing_ok=True)
    hand_over(digests, request.digests)
    command = [sys.executable, "-m", "stance", "candidate", str(out), *request.arguments(), "--digests", str(digests)]
    process = guarded(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    try:
        printed = process.stdout.read()  # `communicate` would close the guard's stdin, which ends it
    finally:
        release(process)
        digests.unlink(missing_ok=True)
    if not out.exists():
        errors = [line for line in printed.splitlines() if line.startswith("error: ")] or printed.splitlines()[-1:]
        raise InputError(errors[-1].removeprefix("error: ") if errors else "the check of the model's files was ended")
    return ServableModel.read(out)


def start(
    request: ServeRequest, candidate: ServableModel, number: int, key: str, *, private_pages: bool = False
) -> Engine:
    """Start an engine under a guard, and return it before it is ready.

    Args:
        request: What was to be served.
        candidate: The model.
        number: The files of the engine are named after it.
        key: The owner's key.
        private_pages: Ask for a key at `/metrics` and `/provenance`.

    Raises:
        InputError: `deploy/limits.yaml` has a wrong value.
    """
    limits, configured = Limits.read(), read_settings()  # the engine reads its limits again; a wrong one is told here
    provenance = SERVE / f"provenance-{number}.json"
    write_json(provenance, candidate.provenance)
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments(candidate, port, configured)]
    scratch = TemporaryDirectory(prefix="stance-engine-")
    secret = {KEY: key, FILE: str(provenance)}  # every user can read arguments
    settings = {
        **without_others(environment()),
        **ENVIRONMENT,
        **({} if candidate.gpu else ONE_PROCESS),
        **GRAMMARS,
        **secret,
    }
    settings |= {PRIVATE: "1"} if private_pages else {}
    settings["TMPDIR"] = scratch.name
    if log_of(number).exists():
        log_of(number).replace(log_of(number).with_suffix(".log.old"))
    with log_of(number).open("w", encoding="utf-8") as log:
        process = guarded(command, env=settings, stdout=log, stderr=subprocess.STDOUT)
    engine_memory.first_to_end(process.pid)
    total = engine_memory.room(candidate).total
    engine = Engine(number, request, candidate, port, process, scratch)
    engine.allowed = engine_memory.allowed(candidate, configured, total, limits.memory)
    engine_memory.watch(process.pid, engine.allowed, lambda size: setattr(engine, "outgrown", size))
    return engine


def await_ready(engine: Engine) -> None:
    """Wait until an engine answers.

    Raises:
        InputError: The engine ended, or took too long.
    """
    until = time.monotonic() + START
    while not answers_health(engine):
        if not engine.alive():
            raise InputError(f"the engine of {engine.candidate.name} ended while it started ({ending(engine)})")
        if time.monotonic() > until:
            raise InputError(f"the engine of {engine.candidate.name} did not start in {START} s; see {engine.log}")
        time.sleep(0.2)


def answers_health(engine: Engine) -> bool:
    """Does the engine answer? It does once the model is loaded."""
    try:
        return httpx.get(f"{engine.address}/health", timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def check(engine: Engine, key: str) -> list[str]:
    """Compare an engine with the measurements of its run, and return a line for each check.

    Raises:
        InputError: A check fails; names the figure and the bound.
    """
    gates = live_gates(engine.candidate, engine.address, key)
    require(gates, f"{engine.candidate.name} {NOT_SERVED}")
    return [f"{gate.name}: {sentence(gate.figure)}" for gate in gates]


def arguments(candidate: ServableModel, port: int, settings: Mapping[str, Any], room: Room | None = None) -> list[str]:
    """Return the command line arguments of vLLM for a model."""
    room = room or engine_memory.room(candidate)
    cache, parts = cache_bytes(candidate, settings, room.total), candidate.devices
    taken = candidate.weights + cache + (candidate.overhead if candidate.gpu else 0)
    common = [
        "--config", str(CONFIGURATION), "--model", str(candidate.model), "--host", HOST, "--port", str(port),
        "--middleware", "stance.serving.middleware.Entrance", "--kv-cache-memory-bytes", str(cache // parts),
        "--gpu-memory-utilization", f"{taken / room.total:.6f}",  # the engine only checks that so much is free
    ]  # fmt: skip
    template = ["--chat-template", str(candidate.template)] if candidate.template else []
    split = ["--tensor-parallel-size", str(parts)] if parts > 1 else []
    return [*common, *split, *template, *names(candidate), *([] if candidate.gpu else on_cpu(candidate))]


def on_cpu(candidate: ServableModel) -> list[str]:
    """Return the further arguments of vLLM on a CPU.

    There the worker ends where the prompt of a request with a seed is split over two steps, so no prompt is split.
    """
    float32 = ["--dtype", candidate.dtype] if candidate.dtype == "float32" else []
    whole = ["--no-enable-chunked-prefill"]
    return [*float32, *whole, "--enforce-eager", "--worker-extension-cls", "stance.serving.amx.Amx"]


def names(candidate: ServableModel) -> list[str]:
    """Return the arguments that name the model for clients: by an alias that stays, and by its release.

    vLLM gets the names of the layers that the adapter changes. Otherwise it prepares `lm_head` for an adapter too, and
    then it ends on a CPU as soon as two requests ask for log-probabilities of their prompts in one step.
    """
    if not candidate.adapter:
        return ["--served-model-name", ALIGNED, candidate.release]
    adapters = [f"{name}={candidate.adapter}" for name in (ALIGNED, candidate.release)]
    spare = str(len(adapters) + 1)  # without one, the base gets an adapter in mixed batches on a CPU (vllm#48421)
    rank = str(next(size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= candidate.rank))
    return [
        "--served-model-name", BASE, "--enable-lora", "--max-loras", spare, "--max-lora-rank", rank,
        "--lora-modules", *adapters, "--lora-target-modules", *candidate.layers,
    ]  # fmt: skip


def ending(engine: Engine) -> str:
    """Return why an engine has ended, and where its log is kept: the next engine writes a new one."""
    log = kept(engine.log)
    if engine.outgrown:
        held, limit = gib(engine.outgrown), gib(engine.allowed)
        return f"it held {held} GiB of memory and may hold {limit}: `memory` in deploy/limits.yaml; {log} is its log"
    code = engine.process.wait()
    number = -code if code < 0 else code - 128
    if number == signal.SIGKILL and engine_memory.kills_for_memory() > engine.kills:
        return f"Linux killed it, because memory ran out; {log} is its log"
    if number in set(signal.Signals):
        return f"it was ended by the signal {signal.Signals(number).name}; {reason(log)}"
    return reason(log)


def kept(log: Path) -> Path:
    """Copy the log of an engine that has ended to a name of its own, and return that. The last `KEPT` copies stay."""
    copy = log.with_name(f"{log.stem}-ended-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.log")
    if not log.exists():
        return log
    shutil.copyfile(log, copy)
    for old in sorted(log.parent.glob("engine-*-ended-*.log"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
    return copy


def reason(log: Path) -> str:
    """Return the first error in an engine's log; later ones follow from it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    errors = [line for line in lines if re.search(r"\bERROR\b.*died|Error: |error: ", line) and "WARNING" not in line]
    return f"{re.split(r'[.]py:[0-9]+] ', errors[0])[-1].strip()}; {log} has the rest" if errors else f"see {log}"


def log_of(number: int) -> Path:
    """Return the path of an engine's log. The log of the last engine of that number is beside it, as `.old`."""
    return SERVE / f"engine-{number}.log"
