"""The clients against vLLM behind the proxy: what the stand-in of the other tests says of vLLM holds.

`test_serve.py` has base and adapter side by side in one engine.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.builders.serving import Serving

pytestmark = pytest.mark.xdist_group("vllm")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def settings(up: Serving) -> dict[str, str]:
    """The clients' settings for the endpoint."""
    return up.settings


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
