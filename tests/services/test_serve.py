"""The endpoint with real engines, as the official client meets it, through a swap, a refusal and the way back."""

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from stance.machine.files import read_json
from stance.machine.ports import free_port
from stance.machine.supervisor import guarded, release
from stance.runs.record import Run
from tests.builders.served_run import another, finished, project

pytestmark = pytest.mark.timeout(900)

DETACH = "from pathlib import Path; from stance.serving.command import serve_run; serve_run(Path())"
QUESTION: list[Any] = [{"role": "user", "content": "配樂會更好嗎？"}]
SECRET_PROMPT = "a prompt that no log may hold"


class Serving:
    """A project that serves its own run, and has two more: `other`, and `wrong`, whose figures are another model's."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = project(folder / "project", model)
        different = another(model, folder / "different")
        self.run("other", different)
        self.run("wrong", model, measured=different)
        self.port = free_port()
        self.environment = {key: value for key, value in os.environ.items() if key != "STANCE_API_KEY"}
        self.environment |= {"SERVE_PORT": str(self.port), "PORT": str(self.port)}

    def run(self, name: str, model: Path, measured: Path | None = None) -> None:
        """Write a completed run."""
        folder = finished(self.folder / ".runs" / name, model, measured)
        Run(name=name, commit="a", snapshot="a", created=datetime.now(UTC), state="completed").write(folder)

    def start(self) -> str:
        """Start the endpoint from a process that ends with all its children, as a flow's does, and is ended."""
        command = [sys.executable, "-c", DETACH]
        flow = guarded(command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert flow.stdout is not None
        said = flow.stdout.read()
        release(flow)
        return said

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Type a command of the endpoint's."""
        command = [sys.executable, "-m", "stance", "serve", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    @property
    def key(self) -> str:
        return (self.folder / ".serve/key").read_text().strip()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str | None = None) -> openai.OpenAI:
        """Return the official client, which is not to try again."""
        return openai.OpenAI(base_url=f"{self.root}/v1", api_key=key or self.key, max_retries=0, timeout=60)

    def release(self) -> str:
        """Return the release that answers."""
        return str(httpx.get(f"{self.root}/provenance").json()["release"])

    def processes(self) -> list[psutil.Process]:
        """Return what runs in the project."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.folder):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Serving]:
    serving = Serving(tmp_path_factory.mktemp("serve"), tiny_model)
    said = serving.start()
    assert f"up: {serving.root}/v1  release r-" in said, said
    try:
        yield serving
    finally:
        serving.command("stop")
        assert serving.processes() == []


def answer(client: openai.OpenAI, model: str = "aligned", tokens: int = 8) -> str:
    done = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=tokens, temperature=0)
    return done.choices[0].message.content or ""


def test_the_official_client_chats_and_streams(up: Serving):
    client = up.client()
    whole = answer(client)
    assert whole
    stream = client.chat.completions.create(
        model="aligned", messages=QUESTION, max_tokens=8, temperature=0, stream=True
    )
    assert "".join(part.choices[0].delta.content or "" for part in stream) == whole


def test_the_model_has_an_alias_and_the_name_of_its_release(up: Serving):
    client = up.client()
    listed = [model.id for model in client.models.list()]
    assert listed == ["aligned", up.release()]
    assert answer(client, listed[0]) == answer(client, listed[1])


def test_errors_are_those_of_the_api(up: Serving):
    with pytest.raises(openai.AuthenticationError):
        up.client("wrong").models.list()
    with pytest.raises(openai.NotFoundError, match="nobody"):
        answer(up.client(), "nobody")
    long: list[Any] = [{"role": "user", "content": "too long " * 1000}]
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512 tokens"):
        up.client().chat.completions.create(model="aligned", messages=long)


def test_who_made_the_model_is_said_by_the_engine_that_answers(up: Serving):
    found = httpx.get(f"{up.root}/provenance").json()
    assert found.keys() > {"release", "released", "commit", "params", "outputs", "gates", "hub", "served"}
    assert found["outputs"]["merge"].keys() == {"data/merged"}
    raw = up.client().chat.completions.with_raw_response.create(model="aligned", messages=QUESTION, max_tokens=1)
    assert raw.headers["x-release"] == found["release"]
    assert raw.headers["x-request-id"] in (up.folder / ".serve/proxy.log").read_text()
    assert "vllm:" in httpx.get(f"{up.root}/metrics").text


def test_the_first_prompt_may_be_as_short_as_a_prompt_can_be(up: Serving):
    done = up.client().completions.create(model="aligned", prompt=[[1], [1, 5, 6]], max_tokens=1)
    assert len(done.choices) == 2


def test_hostile_prompts_and_bodies_do_not_take_it_down(up: Serving):
    client = up.client()
    for content in ("\x00\ud7ff\U0010ffff", "<s></s>[INST]" * 50, "{{ 7*7 }}", " " * 400, "\u202e" * 100):
        client.chat.completions.create(model="aligned", messages=[{"role": "user", "content": content}], max_tokens=2)
    headers = {"authorization": f"Bearer {up.key}", "content-type": "application/json"}
    for body in (b"{", b"[]", b"\xff" * 1_000_000, b"[" * 1_000_000, b'{"model":"aligned","messages":[]}'):
        assert httpx.post(f"{up.root}/v1/chat/completions", content=body, headers=headers, timeout=60).is_client_error
    large = b'{"messages":"' + b"x" * 2**20 + b'"}'
    assert httpx.post(f"{up.root}/v1/chat/completions", content=large, headers=headers).status_code == 413
    assert answer(client)


def test_the_key_is_its_owners_and_nowhere_else(up: Serving):
    client = up.client()
    client.chat.completions.create(model="aligned", messages=[{"role": "user", "content": SECRET_PROMPT}], max_tokens=1)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model="aligned", messages=[{"role": "user", "content": SECRET_PROMPT * 100}], max_tokens=1
        )
    assert stat.S_IMODE((up.folder / ".serve/key").stat().st_mode) == 0o600
    assert not any(up.key in " ".join(process.cmdline()) for process in up.processes())
    logs = "".join(path.read_text(errors="replace") for path in (up.folder / ".serve").glob("*.log"))
    assert up.key not in logs
    assert SECRET_PROMPT not in logs
    assert up.key not in up.command("status").stdout


def test_a_second_endpoint_says_what_is_up(up: Serving):
    refused = up.command()
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: this folder serves {up.release()} at {up.root}/v1 already; change it by")


def test_a_run_that_is_not_there_is_refused_with_those_that_are(up: Serving):
    refused = up.command("swap", "--run", "nobody")
    assert refused.returncode == 1
    assert "there is no run nobody; expected one of: other, wrong" in refused.stderr


def test_an_adapter_beside_a_release_on_the_hub_is_refused(up: Serving):
    refused = up.command("swap", "--hub", "team/merged", "--with-base")
    assert refused.returncode == 1
    assert "error: --with-base needs a run of this project" in refused.stderr


def test_a_model_that_is_not_what_was_measured_is_refused_and_nothing_changes(up: Serving):
    before = up.release()
    engines = len(up.processes())
    refused = up.command("swap", "--run", "wrong")
    assert refused.returncode == 1
    assert "live parity: found drift" in refused.stderr
    assert "expected at most 0.05 mean and 0.5 worst" in refused.stderr
    assert up.release() == before
    assert len(up.processes()) == engines


def test_a_swap_and_a_rollback_under_load_fail_no_request(up: Serving):
    first, over, answered = up.release(), threading.Event(), []
    problems: list[BaseException] = []

    def load() -> None:
        client = up.client()
        try:
            while not over.is_set():
                raw = client.chat.completions.with_raw_response.create(model="aligned", messages=QUESTION, max_tokens=8)
                answered.append(raw.headers["x-release"])
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    swapped = up.command("swap", "--run", "other")
    second = up.release()
    time.sleep(2)
    rolled = up.command("rollback")
    time.sleep(2)
    over.set()
    for thread in threads:
        thread.join()
    assert (swapped.returncode, rolled.returncode) == (0, 0), swapped.stderr + rolled.stderr
    assert problems == []
    assert set(answered) == {first, second}
    assert first != second
    assert up.release() == first
    state = read_json(up.folder / ".serve/state.json")
    assert state["previous"]["name"] == f"other ({second})"


def test_ending_lets_a_stream_end_first_and_leaves_nothing(up: Serving):
    client, parts = up.client(), []
    stream = client.chat.completions.create(
        model="aligned", messages=QUESTION, max_tokens=400, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )
    parts.append(next(stream))
    stopping = subprocess.Popen(
        [sys.executable, "-m", "stance", "serve", "stop"], cwd=up.folder, env=up.environment, stdout=subprocess.PIPE
    )
    parts += list(stream)
    assert parts[-1].choices[0].finish_reason == "length"
    said, _ = stopping.communicate(timeout=60)
    assert said.decode() == f"ended: {up.root}/v1\n"
    assert up.processes() == []
    assert "no endpoint is up in this folder" in up.command("status").stdout
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{up.root}/health")
