"""The clients against vLLM's own server: what the stand-in of the other tests says of it holds."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from stance.client.ask import answer
from stance.client.endpoint import Endpoint, find_endpoint, messages, model_names
from stance.errors import Unreachable
from stance.inference.batch import ENVIRONMENT
from stance.machine.ports import free_port
from tests.doubles.endpoint import KEY

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of random weights, large enough to change what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    torch.manual_seed(0)
    options = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(model, options).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def settings(tiny_model: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start the server with the base model and the adapter; gives the clients' settings for it."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model)]
    # One slot more than adapters: on a CPU, vLLM applies the last slot to the base model's rows of a mixed batch
    # (https://github.com/vllm-project/vllm/pull/48421).
    command += ["--enable-lora", "--max-loras", "2", "--lora-modules", f"aligned={adapter}"]
    command += ["--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--generation-config", "vllm", "--gpu-memory-utilization", "0.3", "--enforce-eager"]
    environment = {**os.environ, **ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_API_KEY": KEY}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING")  # the server is one that answers many at once
    found = {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": KEY}
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as written, subprocess.Popen(command, env=environment, stdout=written, stderr=written) as server:
        try:
            wait(server, found, log)
            yield found
        finally:
            server.terminate()


def wait(server: "subprocess.Popen[bytes]", settings: dict[str, str], log: Path) -> None:
    until = time.monotonic() + 300
    while True:
        try:
            assert model_names(find_endpoint(settings)) == ["base", "aligned"]
            return
        except Unreachable:
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.5)


@pytest.fixture
def client(settings: dict[str, str]) -> Run:
    def run(module: str, *arguments: str, **changed: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, **settings, **changed}
        command = [sys.executable, "-m", *module.split(), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_vllm_answers_one_question_as_it_comes(client, settings):
    environment = {**os.environ, **settings, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "stance", "ask", "真人化好看嗎？", "--max-tokens", "300"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        assert process.poll() is None
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_side_by_side_in_one_engine_each_model_says_what_it_says_alone(settings):
    async def both() -> tuple[list[str], list[str]]:
        at = find_endpoint(settings)
        async with at.async_client() as client:
            apart = [await said(at, client, name) for name in ("base", "aligned")]
            return apart, await asyncio.gather(*(said(at, client, name) for name in ("base", "aligned")))

    async def said(at: Endpoint, client: AsyncOpenAI, name: str) -> str:
        pieces = answer(at, client, name, messages(None, "真人化好看嗎？"), {"temperature": 0, "max_tokens": 20})
        return "".join([text async for text, _ in pieces])

    apart, together = asyncio.run(both())
    assert apart[0] != apart[1]
    assert together == apart


@pytest.mark.parametrize(
    ("arguments", "changed", "sentence"),
    [
        (["why"], {"OPENAI_API_KEY": "sk-wrong"}, "does not take the key in OPENAI_API_KEY"),
        (["why", "--model", "gpt-4o"], {}, "does not serve 'gpt-4o'; expected one of base, aligned"),
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
