"""Answers by the real vLLM: those of the model, each prompt rendered once, scored as transformers scores them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from stance.data.chat import conversation, encode_answer, load_tokenizer
from stance.data.likelihoods import read_texts
from stance.data.side_effects import MAX_TOKENS, SAMPLES
from stance.errors import InputError
from stance.inference.answers import answer_logps
from stance.inference.batch import cache_bytes_per_token, decoding_settings, engine_settings
from stance.machine.files import write_json
from stance.machine.memory import Room
from stance.models.base import bf16_bytes
from stance.models.loading import load
from stance.models.parity import score
from tests.builders.small_run import PROBES, PROMPTS, QUESTIONS, params, write_dataset

SIDE_EFFECTS: list[dict[str, Any]] = [
    {"id": 1, "kind": "everyday", "prompt": "水幾度結冰？", "accept": ["零"], "sampled": True},
    {"id": 2, "kind": "turns", "prompt": "真的嗎？", "earlier": ["配樂會更好嗎？", "會的。"]},
    {"id": 3, "kind": "text", "prompt": "怎麼泡茶？", "answer": "先把水燒開。"},
]


@pytest.fixture(scope="module")
def answered(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("answers")
    write_dataset(root / "dataset")
    write_json(root / "dataset/side_effects.json", SIDE_EFFECTS)
    write_json(root / "dataset/retained.json", [{"id": 1, "prompt": "雪是什麼顏色？"}])
    (root / "params.yaml").write_text(yaml.safe_dump(params(tiny_model).model_dump(mode="json")))
    command = [sys.executable, "-m", "tasks.answers", str(tiny_model), "dataset", "out.jsonl", "beside"]
    environment = {"PYTHONPATH": str(Path.cwd()), "PATH": "/usr/bin:/bin", "HOME": str(root)}
    subprocess.run(command, cwd=root, check=True, env=environment, timeout=300)
    return root


def test_every_prompt_is_answered_in_order(answered: Path):
    rows = [json.loads(line) for line in (answered / "out.jsonl").read_text().split("\n") if line]
    assert [(row["id"], row["prompt"]) for row in rows] == [(row["id"], row["prompt"]) for row in PROMPTS]


def test_answer_that_runs_to_the_limit_says_so(answered: Path):
    rows = [json.loads(line) for line in (answered / "out.jsonl").read_text().split("\n") if line]
    assert all((row["finish_reason"] == "length") == (row["tokens"] == 12) for row in rows)


def test_log_probabilities_equal_those_by_transformers(answered: Path, tiny_model: Path):
    tokenizer, model = load_tokenizer(tiny_model), load(tiny_model, "cpu")
    logps = json.loads((answered / "beside/logps.json").read_text())
    for row in QUESTIONS:
        messages = conversation("回覆請少於20字", row["prompt"])
        for side in ("support", "oppose"):
            [expected] = score(model, [encode_answer(tokenizer, messages, row[side])])
            assert logps[str(row["id"])][side] == pytest.approx(expected.logps, abs=0.1)


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_prompts_that_show_side_effects_are_answered_drawn_and_scored(answered: Path, tiny_model: Path):
    greedy, drawn = rows_in(answered / "beside/side_effects.jsonl"), rows_in(answered / "beside/drawn.jsonl")
    assert [row["id"] for row in greedy] == [1, 2]  # nobody writes the text
    assert all(row["tokens"] <= MAX_TOKENS["turns"] for row in greedy)
    assert [row["id"] for row in drawn] == [1] * SAMPLES
    assert len({row["response"] for row in drawn}) > 1
    [text] = read_texts(answered / "beside/texts.json").values()
    tokenizer, model = load_tokenizer(tiny_model), load(tiny_model, "cpu")
    messages = conversation("回覆請少於20字", SIDE_EFFECTS[2]["prompt"])
    [expected] = score(model, [encode_answer(tokenizer, messages, SIDE_EFFECTS[2]["answer"])])
    assert text.logps == pytest.approx(expected.logps, abs=0.1)
    assert len(text.likeliest) == len(text.logps)


def test_only_the_base_answers_the_prompts_that_training_retains(answered: Path):
    assert rows_in(answered / "beside/retained.jsonl") == []


def test_probes_and_training_questions_are_asked_as_well(answered: Path):
    for name, asked in (("probes", PROBES), ("questions", QUESTIONS)):
        rows = [json.loads(line) for line in (answered / f"beside/{name}.jsonl").read_text().split("\n") if line]
        assert [(row["id"], row["prompt"]) for row in rows] == [(row["id"], row["prompt"]) for row in asked]


def test_the_likeliest_tokens_are_those_of_transformers(answered: Path, tiny_model: Path):
    tokenizer, model = load_tokenizer(tiny_model), load(tiny_model, "cpu")
    [(ident, found)] = json.loads((answered / "beside/likeliest.json").read_text()).items()
    assert ident == "2"
    prompt, answer = encode_answer(tokenizer, conversation("回覆請少於20字", PROBES[1]["prompt"]), PROBES[1]["answer"])
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer])).logits[0].float().log_softmax(-1)
    assert len(found) == len(answer)
    for position, (token, tops) in enumerate(zip(answer, found, strict=True), start=len(prompt) - 1):
        assert len(tops) in (20, 21)
        assert str(token) in tops
        for other, logp in tops.items():
            assert logits[position, int(other)].item() == pytest.approx(logp, abs=0.1)


def test_cache_of_one_token_is_two_bf16_vectors_per_layer(tiny_model: Path):
    """Key and value (2) x bf16 (2 bytes) x 2 layers x 1 head x 32 dimensions = 256 bytes."""
    assert cache_bytes_per_token(tiny_model) == 256


@pytest.mark.parametrize(("products", "dtype", "token"), [(True, "bfloat16", 256), (False, "float32", 512)])
def test_cache_is_sized_for_the_work(
    products: bool, dtype: str, token: int, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    """Sequences of 100 and 50 tokens, each with a spare block of 128: 406 tokens. A CPU may lack products of bf16."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: products)
    chosen = params(tiny_model)
    settings = engine_settings(tiny_model, chosen.model, chosen.answers, [100, 50])
    assert settings["kv_cache_memory_bytes"] == 406 * token
    assert settings["dtype"] == dtype
    assert settings["max_model_len"] == 100


def test_weights_in_float32_are_counted_as_such(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the bf16 weights and one sequence just fit, the same in float32 is refused."""
    chosen = params(tiny_model)
    needed = bf16_bytes(tiny_model) + 256 * (100 + 128)
    monkeypatch.setattr("stance.inference.batch.own_memory", lambda device, count: Room(needed, needed * 100))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    engine_settings(tiny_model, chosen.model, chosen.answers, [100])
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(InputError, match="weights take"):
        engine_settings(tiny_model, chosen.model, chosen.answers, [100])


def test_an_fp32_model_is_counted_as_the_bf16_it_becomes(tiny_model: Path, tmp_path: Path):
    shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    (tmp_path / "model/consolidated.safetensors").write_bytes(b"another copy")
    assert bf16_bytes(tmp_path / "model") == (tiny_model / "model.safetensors").stat().st_size // 2


@pytest.mark.parametrize(("prompts", "sizes"), [(1, [1]), (10, [1, 2, 4, 8, 16]), (1000, [2**n for n in range(9)])])
def test_graphs_are_recorded_for_the_batches_that_can_occur(prompts: int, sizes: list[int], tiny_model: Path):
    options = params(tiny_model, answers__enforce_eager=False).answers
    assert decoding_settings(options, prompts)["compilation_config"]["cudagraph_capture_sizes"] == sizes


def test_too_little_memory_is_refused_with_the_numbers(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    chosen = params(tiny_model)
    monkeypatch.setattr("stance.inference.batch.own_memory", lambda device, count: Room(2**10, 2**34))
    with pytest.raises(InputError, match=r"weights take .* GiB .* GiB of cpu memory may be used"):
        engine_settings(tiny_model, chosen.model, chosen.answers, [100])


def test_a_model_on_several_gpus_is_split_and_takes_its_share_of_each(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    chosen = params(tiny_model)
    model = chosen.model.model_copy(update={"device": "cuda", "devices": 2})
    monkeypatch.setattr("stance.inference.batch.own_memory", lambda device, count: Room(count * 2**33, count * 2**34))
    settings = engine_settings(tiny_model, model, chosen.answers, [100])
    alone = engine_settings(tiny_model, model.model_copy(update={"devices": 1}), chosen.answers, [100])
    assert (settings["tensor_parallel_size"], alone["tensor_parallel_size"]) == (2, 1)
    assert settings["kv_cache_memory_bytes"] == alone["kv_cache_memory_bytes"] // 2
    assert settings["gpu_memory_utilization"] == pytest.approx(alone["gpu_memory_utilization"] / 2)


def test_drawn_answers_whose_prompts_are_more_than_a_step_takes_are_drawn(tiny_model: Path):
    """vLLM takes 4096 tokens a step on a CPU. If it splits a prompt with a seed, its CPU worker ends with an error."""
    code = f"""
from pathlib import Path
from stance.inference.batch import complete
from tests.builders.small_run import params
chosen = params(Path({str(tiny_model)!r}))
drawn = {{"max_tokens": 2, "temperature": 1.0, "stop_token_ids": []}}
batch = [([5 + place % 40, *range(6, 36)], drawn | {{"seed": place}}) for place in range(140)]
print(len(complete(Path({str(tiny_model)!r}), chosen.model, chosen.answers, batch)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["140"]), done.stderr[-2000:]


def test_log_probability_is_that_of_the_token_that_follows():
    """Prompt of two tokens, answer 7 8: vLLM lists for each position the token that stands there."""
    at = [None, {5: 0}, {7: SimpleNamespace(logprob=-0.5)}, {8: SimpleNamespace(logprob=-1.5)}]
    assert answer_logps(([4, 5], [7, 8]), SimpleNamespace(prompt_logprobs=at)) == [-0.5, -1.5]
