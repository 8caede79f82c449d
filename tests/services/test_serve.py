"""The endpoint with real engines, as the official client and ours meet it, through a swap, a refusal and the way back.

What the stand-in of `tests/doubles/endpoint.py` says of vLLM holds here, behind the proxy.
"""

import asyncio
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from stance.client.ask import answer as stream_answer
from stance.client.endpoint import Endpoint, find_endpoint, messages, model_names
from stance.machine.files import read_json
from stance.machine.ports import answers
from tests.builders.serving import Serving, serving

pytestmark = pytest.mark.timeout(900)

Client = Callable[..., "subprocess.CompletedProcess[str]"]

QUESTION: list[Any] = [{"role": "user", "content": "配樂會更好嗎？"}]
SECRET_PROMPT = "a prompt that no log may hold"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("serve"), tiny_model) as endpoint:
        yield endpoint


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
    assert str(up.folder) not in httpx.get(f"{up.root}/v1/models", headers={"authorization": f"Bearer {up.key}"}).text


@pytest.fixture
def client(up: Serving) -> Client:
    def run(module: str, *arguments: str, **changed: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, **up.settings, **changed}
        command = [sys.executable, "-m", *module.split(), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_vllm_answers_one_question_as_it_comes(up: Serving):
    environment = {**os.environ, **up.settings, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "stance", "ask", "真人化好看嗎？", "--max-tokens", "300"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        assert process.poll() is None
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "changed", "sentence"),
    [
        (["why"], {"OPENAI_API_KEY": "sk-wrong"}, "does not accept the key in OPENAI_API_KEY"),
        (["why", "--model", "gpt-4o"], {}, "does not serve 'gpt-4o'; expected one of aligned, r-"),
        (["why" * 2000], {}, "too long for the model"),
        (["why", "--max-tokens", "100000"], {}, "too long for the model"),
        (["why", "--max-tokens", "0"], {}, "refuses the request (status 400"),
        (["why", "--temperature", "-1"], {}, "refuses the request (status 400"),
    ],
    ids=["key", "model", "long", "tokens", "no-tokens", "temperature"],
)
def test_vllm_s_refusals_are_one_sentence(client, arguments, changed, sentence):
    ended = client("stance ask", *arguments, **changed)
    assert (ended.returncode, ended.stdout) == (1, "")
    *_, said = ended.stderr.splitlines()
    assert said.startswith("error: ")
    assert sentence in said


def test_vllm_answers_a_batch_of_fifty_rows(client, tmp_path):
    rows = [json.dumps({"id": n, "prompt": f"question {n}"}) + "\n" for n in range(50)]
    (tmp_path / "prompts.jsonl").write_text("".join(rows), encoding="utf-8")
    files = (str(tmp_path / "prompts.jsonl"), str(tmp_path / "answers.jsonl"))
    ended = client("stance batch", *files, "--max-tokens", "20")
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_bytes().splitlines()]
    assert [row["custom_id"] for row in found] == [str(n) for n in range(50)]
    assert all(row["error"] is None and row["response"]["status_code"] == 200 for row in found)


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
    assert "data/merged" in {path for outputs in found["outputs"].values() for path in outputs}
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


def schema(value: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": value}}}


def held(up: Serving) -> int:
    """Return the bytes that the processes of the endpoint hold."""
    return sum(process.memory_info().rss for process in up.processes())


LETTERS = {f"p{n}": {"type": "string"} for n in range(30)}
HOSTILE: list[dict[str, Any]] = [
    schema({"type": "array", "items": {"type": "string"}, "minItems": 1_000_000_000}),
    {"n": 10_000},
    {"prompt_logprobs": 100_000},
    {"structured_outputs": {"regex": "((a{100}){100}){100}"}},
    {"structured_outputs": {"regex": ".*" * 250}},
    {"stop": ["a"] * 100_000},
]
AT_THE_LIMIT: list[dict[str, Any]] = [
    schema({"type": "array", "items": {"type": "string"}, "minItems": 1000}),
    schema(
        {"type": "array", "items": {"type": "array", "items": {"type": "string", "maxLength": 500}, "minItems": 1000}}
    ),
    schema({"type": "object", "properties": LETTERS, "minProperties": 10, "maxProperties": 30}),
    schema({"type": "string", "pattern": "^([a-z]{1,10}){1,10}$"}),
    schema({"type": "integer", "multipleOf": 7}),  # the one compiler may not know it; no other is tried
    {"n": 16},
    {"prompt_logprobs": 20},
    {"structured_outputs": {"regex": "(.*|[^b]*)(.*|.*)"}},
]


def test_no_request_takes_the_memory_or_the_time_of_others(up: Serving):
    """An honest client is served meanwhile, and what is refused is refused within a second."""
    client, over, seconds = up.client(), threading.Event(), []
    answer(client)

    def honest() -> None:
        while not over.is_set():
            began = time.monotonic()
            assert answer(client)
            seconds.append(time.monotonic() - began)

    before, thread = held(up), threading.Thread(target=honest)
    thread.start()
    try:
        for body in HOSTILE:
            began = time.monotonic()
            with pytest.raises(openai.BadRequestError, match="the limit is"):
                up.client().chat.completions.create(model="aligned", messages=QUESTION, max_tokens=8, extra_body=body)
            assert time.monotonic() - began < 1
        for body in AT_THE_LIMIT:
            began = time.monotonic()
            try:
                up.client().chat.completions.create(model="aligned", messages=QUESTION, max_tokens=8, extra_body=body)
                outcome = "answered"
            except openai.BadRequestError as refused:
                outcome = str(refused)[:100]
            print(
                f"{time.monotonic() - began:.1f} s, {(held(up) - before) >> 20} MiB more: {outcome} {str(body)[:100]}"
            )
    finally:
        over.set()
        thread.join()
    print(f"honest: {len(seconds)} answers, worst {max(seconds):.1f} s")
    assert held(up) - before < 500 * 2**20


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
    assert "by the measured noise of bf16" in refused.stderr
    assert up.release() == before
    assert len(up.processes()) == engines


def test_a_swap_and_a_rollback_under_load_fail_no_request(up: Serving):
    first, started, over, answered = up.release(), threading.Event(), threading.Event(), []
    problems: list[BaseException] = []

    def load() -> None:
        client = up.client()
        try:
            while not over.is_set():
                raw = client.chat.completions.with_raw_response.create(model="aligned", messages=QUESTION, max_tokens=8)
                answered.append(raw.headers["x-release"])
                # The engine that starts needs the machine. Soak has 64 clients without a pause.
                time.sleep(0.05 if started.is_set() else 1)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    swapped = up.command("swap", "--run", "other", "--with-base")
    started.set()
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


def test_side_by_side_in_one_engine_each_model_says_what_it_says_alone(up: Serving):
    """The engine of base and adapter is up since the swap, and answers again after another rollback."""
    assert up.command("rollback").returncode == 0

    async def both() -> tuple[list[str], list[str]]:
        at = find_endpoint(up.settings)
        async with at.async_client() as client:
            apart = [await text_of(at, client, name) for name in ("base", "aligned")]
            return apart, await asyncio.gather(*(text_of(at, client, name) for name in ("base", "aligned")))

    async def text_of(at: Endpoint, client: openai.AsyncOpenAI, name: str) -> str:
        pieces = stream_answer(at, client, name, messages(None, "真人化好看嗎？"), {"temperature": 0, "max_tokens": 20})
        return "".join([text async for text, _ in pieces])

    assert model_names(find_endpoint(up.settings))[:2] == ["base", "aligned"]
    apart, together = asyncio.run(both())
    assert apart[0] != apart[1]
    assert together == apart
    assert up.command("rollback").returncode == 0


def test_a_named_key_is_accepted_and_revoked_without_a_restart(up: Serving):
    def keys(*arguments: str) -> str:
        command = [sys.executable, "-m", "stance", "keys", *arguments]
        return subprocess.run(command, cwd=up.folder, capture_output=True, text=True, check=True).stdout.strip()

    key = keys("add", "ada", "--at-once", "2")
    assert answer(up.client(key))
    with pytest.raises(openai.RateLimitError, match="the limit is 2 at once"):
        up.client(key).chat.completions.create(model="aligned", messages=QUESTION, n=3)
    assert keys("revoke", "ada") == "revoked: ada"
    with pytest.raises(openai.AuthenticationError, match="revoked"):
        answer(up.client(key))
    assert answer(up.client())


def test_a_killed_engine_and_a_killed_proxy_come_back(up: Serving):
    release = up.release()
    [proxy, *_] = [process for process in up.processes() if process.name() == "haproxy"]
    proxy.kill()
    psutil.wait_procs([proxy], timeout=10)
    until = time.monotonic() + 10  # the endpoint looks once a second
    while not answers(f"{up.root}/provenance"):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert answer(up.client())
    live = read_json(up.folder / ".serve/state.json")["live"]["engine"].rpartition(":")[2]
    for process in up.processes():
        if "vllm.entrypoints.openai.api_server" in process.cmdline() and live in process.cmdline():
            process.kill()
    time.sleep(2)  # the endpoint looks once a second
    with openai.OpenAI(base_url=f"{up.root}/v1", api_key=up.key, max_retries=5, timeout=300) as client:
        assert answer(client)
    assert up.release() == release
    log = (up.folder / ".serve/endpoint.log").read_text()
    assert "HAProxy has ended by itself; .serve/proxy.log may say why; it is started again" in log
    assert "has ended by itself (it was ended by the signal SIGKILL; see .serve/engine-" in log


def test_what_a_killed_endpoint_leaves_is_removed_by_the_next_start(up: Serving):
    """And the next start is one command, which serves the same release, although this folder has another run."""
    own = up.release()
    assert up.command("rollback").returncode == 0
    release = up.release()
    assert release != own
    remains = read_json(up.folder / ".serve/remains.json")
    assert remains["folders"]
    assert all(Path(path).exists() for path in remains["folders"])
    psutil.Process(read_json(up.folder / ".serve/state.json")["pid"]).kill()
    printed = up.folder / ".serve/typed.log"
    with printed.open("w") as output:
        command = ["setsid", "--fork", sys.executable, "-m", "stance", "serve", "--port", str(up.port)]
        subprocess.run(command, cwd=up.folder, env=up.environment, stdout=output, stderr=output, check=True)
    until = time.monotonic() + 120
    while "up: " not in (log := printed.read_text()):
        assert time.monotonic() < until, log
        time.sleep(0.2)
    assert f"up: {up.root}/v1  release {release}" in log
    assert "removed what a killed endpoint had left: " in log
    assert f"serves other ({release}) again" in log
    assert not any(Path(path).exists() for path in [*remains["folders"], *remains["shared"]])


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
