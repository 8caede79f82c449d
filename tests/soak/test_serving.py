"""The endpoint under load for long: 64 clients on the real miniature, through a swap, a rollback and `kill -9`."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import openai
import psutil
import pytest

from stance.machine.files import read_json
from stance.machine.ports import free_port
from tests.builders.hostile import Hostile
from tests.builders.repository import git
from tests.builders.this_project import command as type_command
from tests.builders.toy_project import dvc
from tests.soak.test_runs import clone, note

pytestmark = pytest.mark.timeout(3600)

CLIENTS, REQUESTS, MANY, EARLY = 64, 2000, 10_000, 1000
# By then every block of the cache has been written to; before, the system has not given its memory.
MIB = 2**20


class Load:
    """Clients that ask the questions of the miniature, each the next when it has an answer."""

    def __init__(self, project: Path, port: int, requests: int = REQUESTS) -> None:
        self.project, self.port, self.requests = project, port, requests
        self.questions = [row["prompt"] for row in read_json(project / "data/dataset/test_prompt.json")]
        self.seconds: list[float] = []
        self.problems: list[str] = []
        self.began_before_the_kill: list[bool] = []
        self.killed = float("inf")
        self.early = 0
        self.orders: list[dict[str, Any]] = []

    def run(self, *orders: str) -> dict[str, Any]:
        """Ask until there were enough answers and every order was carried out, and return the figures."""
        began = time.monotonic()
        asyncio.run(self._all(orders))
        took = time.monotonic() - began
        cuts = quantiles(self.seconds, n=100)
        return {
            "requests": len(self.seconds), "failed": self.problems, "seconds": round(took, 1),
            "per second": round(len(self.seconds) / took, 1),
            "median, 99 % in s": [round(cuts[49], 2), round(cuts[98], 2)],
            "MiB after 1000, at the end": [self.early, self.memory()], "orders": self.orders,
        }  # fmt: skip

    async def _all(self, orders: tuple[str, ...]) -> None:
        changing = asyncio.create_task(self._order(orders))
        key = (self.project / ".serve/key").read_text().strip()
        address = f"http://127.0.0.1:{self.port}/v1"
        async with openai.AsyncOpenAI(base_url=address, api_key=key, max_retries=0, timeout=300) as client:
            await asyncio.gather(*(self._client(client, number, changing) for number in range(CLIENTS)))
        await changing

    async def _client(self, client: openai.AsyncOpenAI, number: int, changing: "asyncio.Task[None]") -> None:
        while len(self.seconds) < self.requests or not changing.done():
            began = time.monotonic()
            number += 1
            question = self.questions[number % len(self.questions)]
            try:
                await client.chat.completions.create(
                    model="aligned", messages=[{"role": "user", "content": question}], max_tokens=40, temperature=0.7
                )
            except openai.OpenAIError as problem:
                self.problems.append(repr(problem))
                self.began_before_the_kill.append(began < self.killed)
                if len(self.problems) > 2 * CLIENTS:
                    return
                continue
            self.seconds.append(time.monotonic() - began)
            if len(self.seconds) == EARLY:
                self.early = self.memory()

    async def _order(self, orders: tuple[str, ...]) -> None:
        for order in orders:
            await asyncio.sleep(5)
            began = time.monotonic()
            if order == "kill":
                await self._kill()
                self.orders.append({order: "answers again", "seconds": round(time.monotonic() - began, 1)})
                continue
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "stance",
                "serve",
                *order.split(),
                cwd=self.project,
                stdout=asyncio.subprocess.PIPE,
            )
            printed, _ = await process.communicate()
            assert process.returncode == 0, printed
            said = printed.decode().splitlines()[-1]
            self.orders.append({order.split()[0]: said.split("  ")[-1], "seconds": round(time.monotonic() - began, 1)})

    async def _kill(self) -> None:
        """Kill the engine that answers, and wait until 64 requests have been answered since.

        The system takes a moment to end a process of gigabytes, and its port is open until then.
        """
        # The guard of the engine stays: it tells how the engine ended.
        engine = [process for process in self.engine() if not command(process)[1].endswith("supervisor.py")]
        for process in engine:
            process.kill()
        await asyncio.to_thread(psutil.wait_procs, engine, 10)
        self.killed = time.monotonic()
        answered = len(self.seconds)
        while len(self.seconds) < answered + CLIENTS:
            await asyncio.sleep(0.1)

    def engine(self) -> list[psutil.Process]:
        """Return the processes of the engine that answers, but for their children."""
        live = read_json(self.project / ".serve/state.json")["live"]["engine"].rpartition(":")[2]
        return [process for process in psutil.process_iter() if live in command(process)]

    def memory(self) -> int:
        """Return the MiB that the engine that answers holds, its processes together."""
        family = {child for process in self.engine() for child in (process, *process.children(recursive=True))}
        return sum(process.memory_info().rss for process in family) // MIB


def command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    project = clone(tmp_path_factory.mktemp("soak-serving"))
    dvc(project, "repro", "--quiet")
    git(project, "commit", "--quiet", "--allow-empty", "--all", "--message", "what this machine makes of it")
    assert type_command(project, "flows.align", "--ratio", "0").code == 0
    port = free_port()
    serving = subprocess.Popen(
        [sys.executable, "-m", "stance", "serve", "--port", str(port)], cwd=project,
        env={**os.environ, "STANCE_API_KEY": ""}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert serving.stdout is not None
    said = next(line for line in serving.stdout if line.startswith("up: "))
    note("serving-start", {"said": said.strip()})
    yield project, port
    serving.terminate()
    serving.communicate(timeout=90)
    assert serving.returncode == 0
    assert git(project, "status", "--porcelain", "--", "flows", "stance", "tasks") == ""


def swap(project: Path) -> str:
    """Return the order that swaps to the run at ratio 0."""
    [record] = project.glob(".runs/*/.dvc/tmp/run.json")
    return f"swap --run {record.parents[2].name}"


def test_two_thousand_requests_of_64_clients_fail_never_and_take_no_more_memory(served: tuple[Path, int]):
    figures = Load(*served).run()
    note("serving", figures)
    assert figures["failed"] == []
    early, late = figures["MiB after 1000, at the end"]
    assert late < 1.05 * early


def test_a_swap_and_a_rollback_under_that_load_fail_no_request(served: tuple[Path, int]):
    figures = Load(*served).run(swap(served[0]), "rollback")
    note("serving-swap", figures)
    assert figures["failed"] == []
    assert figures["requests"] >= REQUESTS
    assert [list(order)[0] for order in figures["orders"]] == ["swap", "rollback"]


def test_of_ten_thousand_requests_through_swap_rollback_and_kill_only_those_in_flight_at_the_kill_fail(
    served: tuple[Path, int],
):
    load = Load(*served, requests=MANY)
    figures = load.run(swap(served[0]), "rollback", "kill")
    note("serving-kill", figures)
    assert [list(order)[0] for order in figures["orders"]] == ["swap", "rollback", "kill"]
    assert figures["requests"] >= MANY
    assert load.began_before_the_kill == [True] * len(figures["failed"])
    assert len(figures["failed"]) <= 2 * CLIENTS  # each client's request, and one more that the dying engine took


HOSTILE, HONEST, STRANGERS = 10_000, 16, 8


class Fuzz:
    """Clients that send hostile requests, and honest ones that ask beside them until the others are done."""

    def __init__(self, project: Path, port: int) -> None:
        self.load = Load(project, port)
        self.headers = {"Authorization": f"Bearer {(project / '.serve/key').read_text().strip()}"}
        self.address = f"http://127.0.0.1:{port}"
        self.left = iter(Hostile(seed=16).requests(HOSTILE))
        self.statuses: dict[int, int] = {}
        self.slow: list[tuple[float, str]] = []
        self.odd: list[str] = []

    async def run(self) -> None:
        strangers = asyncio.gather(*(self._stranger() for _ in range(STRANGERS)))
        async with openai.AsyncOpenAI(
            base_url=f"{self.address}/v1", api_key=self.headers["Authorization"].split()[1], max_retries=0, timeout=300
        ) as client:
            await asyncio.gather(strangers, *(self._honest(client, number, strangers) for number in range(HONEST)))

    async def _honest(self, client: openai.AsyncOpenAI, number: int, strangers: "asyncio.Future[Any]") -> None:
        while not strangers.done():
            began = time.monotonic()
            number += 1
            question = self.load.questions[number % len(self.load.questions)]
            try:
                await client.chat.completions.create(
                    model="aligned", messages=[{"role": "user", "content": question}], max_tokens=20, temperature=0
                )
            except openai.OpenAIError as problem:
                self.load.problems.append(repr(problem))
            self.load.seconds.append(time.monotonic() - began)

    async def _stranger(self) -> None:
        async with httpx.AsyncClient(headers=self.headers, timeout=300) as client:
            for path, body in self.left:
                began = time.monotonic()
                try:
                    answer = await client.post(f"{self.address}{path}", content=body)
                except httpx.HTTPError as problem:
                    self.odd.append(f"{problem!r} for {body[:200]!r}")
                    continue
                took = time.monotonic() - began
                self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
                if answer.status_code >= 500:
                    self.odd.append(f"{answer.status_code} for {body[:200]!r}")
                elif answer.status_code >= 400:
                    self.slow += [(took, body[:200].decode("utf-8", "replace"))] if took > 1 else []
                    self.odd += [] if "message" in answer.json()["error"] else [f"another shape for {body[:200]!r}"]


def test_ten_thousand_hostile_requests_harm_no_honest_client(served: tuple[Path, int]):
    """Each refusal has the shape of OpenAI's errors and comes in a second, and the engine takes no more memory."""
    fuzz = Fuzz(*served)
    before = fuzz.load.memory()
    asyncio.run(fuzz.run())
    cuts = quantiles(fuzz.load.seconds, n=100)
    slowest, after = max(fuzz.load.seconds), fuzz.load.memory()
    note(
        "serving-fuzz",
        {
            "statuses": fuzz.statuses, "honest answers": len(fuzz.load.seconds), "failed": fuzz.load.problems,
            "median, 99 %, most in s": [round(cuts[49], 2), round(cuts[98], 2), round(slowest, 2)],
            "MiB before, after": [before, after], "odd": fuzz.odd[:20], "refused late": fuzz.slow[:20],
        },
    )  # fmt: skip
    assert sum(fuzz.statuses.values()) == HOSTILE
    assert (fuzz.load.problems, fuzz.odd) == ([], [])
    assert slowest < 10 * cuts[49]
    assert after < before + 256
