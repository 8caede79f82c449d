"""What was pushed is loaded from the Hub by those who will: transformers, PEFT and vLLM, with the card's own lines."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from stance.inference.environment import ENVIRONMENT, ONE_PROCESS
from stance.machine.files import read_json, write_json
from stance.runs.provenance import release_id
from tests.builders.finished_run import write_lock, write_run
from tests.builders.small_run import merge_in, params, prepare, train_in
from tests.doubles.hub import Hub, serving
from tests.doubles.hub_jobs import Job, environment, jobs
from tests.doubles.made_up import TOKEN

PREPARE = """import peft, scipy.stats, torch, transformers, stance.release.push
stance.release.push.recompute = lambda run: None  # only the model of this run was made by stages
"""
PUSH = "sys.argv[1:] = []; run(stance.release.push.main)"
ANSWER = "print(inputs['input_ids'].tolist()); print(model(**inputs).logits.tolist())"
VLLM = """
import sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    repo, tag, ids = sys.argv[1], sys.argv[2], [int(i) for i in sys.argv[3].split(",")]
    engine = LLM(repo, revision=tag, tokenizer_revision=tag, dtype="bfloat16", enforce_eager=True, max_model_len=256)
    output = engine.generate([{"prompt_token_ids": ids}], SamplingParams(temperature=0, max_tokens=8))
    print("ids", list(output[0].outputs[0].token_ids))
"""


@dataclass
class Pushed:
    """A run with a trained model, and the Hub that has it."""

    run: Path
    hub: Hub
    home: Path
    tag: str


@pytest.fixture(scope="module")
def pushed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    run = write_run(tmp_path_factory.mktemp("trained"))
    data, chosen = run / "data", params(tiny_model)
    base = read_json(data / "base/base.json")
    shutil.rmtree(data / "dataset")
    shutil.rmtree(data / "adapter")
    shutil.rmtree(data / "merged")
    prepare(data, chosen)
    adapter = train_in(data, chosen)
    merge_in(data, chosen, adapter)
    home = tmp_path_factory.mktemp("hf")
    with serving() as hub:
        hub.writer(TOKEN)
        repo = hub.repo("team/base", {path.name: path.read_bytes() for path in tiny_model.iterdir()})
        write_json(data / "base/base.json", base | {"revision": repo.refs["main"]})
        metrics = read_json(data / "evaluation/metrics.json")  # the floor was measured, and the drift made up
        write_json(data / "evaluation/metrics.json", metrics | {"served": {"mean": 0.0, "worst": 0.0}})
        write_lock(run)
        with jobs(environment(hub, home), PREPARE) as job:
            ended = job(PUSH, run, HF_TOKEN=TOKEN)
        assert (ended.code, ended.err) == (0, "")
        yield Pushed(run, hub, home, release_id(run))


@pytest.fixture(params=["xet", "lfs"])
def job(pushed: Pushed, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A process with a cache of its own, that loads through hf_xet or over HTTP what was pushed by xet."""
    variables = environment(pushed.hub, tmp_path_factory.mktemp("cache"))
    with jobs(variables | {"HF_HUB_DISABLE_XET": str(int(request.param == "lfs"))}, PREPARE) as run:
        yield run


def on_the_card(pushed: Pushed, part: str) -> str:
    """The Python code of a card up to the answer."""
    card = pushed.hub.repos[f"team/{part}"].head["README.md"].data.decode()
    code = "\n".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))
    return code[: code.index("output = ")]


def answered(job: Job, code: str, folder: Path) -> tuple[list[list[int]], torch.Tensor]:
    ended = job(f"{code}\n{ANSWER}", folder, HF_TOKEN=TOKEN)
    assert ended.code == 0, ended.err
    ids, logits = ended.out.splitlines()[-2:]
    return json.loads(ids), torch.tensor(json.loads(logits))


def test_the_cards_lines_load_the_merged_model_with_the_logits_of_the_local_one(pushed, job, tmp_path):
    ids, logits = answered(job, on_the_card(pushed, "merged"), tmp_path)
    local = AutoModelForCausalLM.from_pretrained(pushed.run / "data/merged", dtype=torch.bfloat16)
    assert ids == card_ids(pushed)
    assert torch.equal(logits, local(torch.tensor(ids)).logits.float())


def test_the_cards_lines_load_the_adapter_on_its_base_with_the_logits_of_the_local_one(
    pushed, job, tmp_path, tiny_model
):
    ids, logits = answered(job, on_the_card(pushed, "adapter"), tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    local = PeftModel.from_pretrained(base, str(pushed.run / "data/adapter"))
    assert ids == card_ids(pushed)
    assert torch.equal(logits, local(torch.tensor(ids)).logits.float())


def card_ids(pushed: Pushed) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(pushed.run / "data/merged")
    scope: dict[str, list[dict[str, str]]] = {}
    exec(on_the_card(pushed, "merged").partition("\nfrom transformers")[0], scope)
    ids = tokenizer.apply_chat_template(scope["messages"], add_generation_prompt=True, return_dict=True)["input_ids"]
    return [ids]


def test_peft_finds_the_base_by_itself(pushed, job, tmp_path):
    code = f"model = peft.AutoPeftModelForCausalLM.from_pretrained('team/adapter', revision='{pushed.tag}')"
    ended = job(f"{code}; print(model.base_model.model.config._name_or_path)", tmp_path, HF_TOKEN=TOKEN)
    assert (ended.code, ended.out.split()[-1]) == (0, "team/base"), ended.err


def test_vllm_loads_the_merged_model_and_chooses_the_same_tokens(pushed, tmp_path):
    ids = card_ids(pushed)[0]
    command = [sys.executable, "-c", VLLM, "team/merged", pushed.tag, ",".join(map(str, ids))]
    vllm = {**ENVIRONMENT, **ONE_PROCESS, "VLLM_CPU_KVCACHE_SPACE": "1"}
    variables = environment(pushed.hub, tmp_path / "hf") | {"HF_TOKEN": TOKEN} | vllm
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    chosen = json.loads(done.stdout.rpartition("ids ")[2])
    local = AutoModelForCausalLM.from_pretrained(pushed.run / "data/merged", dtype=torch.bfloat16)
    logits = local(torch.tensor([[*ids, *chosen]])).logits[0, len(ids) - 1 : -1].float()
    drift = logits.max(dim=-1).values - logits[torch.arange(len(chosen)), torch.tensor(chosen)]
    assert len(chosen) == 8
    assert drift.max() < 0.05, "each token is the local model's first choice, or as good"
