"""Several answers per question by the real vLLM, and which of them are kept."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stance.config.road import Sample
from stance.data.chat import conversation, encode, load_tokenizer
from stance.data.questions import Prompt
from stance.data.samples import SampledAnswer, Samples, read_samples
from stance.errors import InputError
from stance.inference.sampling import distinct, draws, gathered, seed_of, similarity
from stance.models.loading import load
from tasks.sample import sample
from tests.builders.small_run import QUESTIONS, params, prepare

OPTIONS = Sample(num_answers=4, draws=6, temperature=1.0, top_p=1.0, max_similarity=0.8)
SYSTEM = "回覆請少於20字"
STAGE = """
import sys
from pathlib import Path
from stance.config.params import Params
from stance.config.road import Sample
from tasks.sample import sample

options = Sample.model_validate_json(sys.argv[1])
params = Params.load()
sample(params.model, params.answers, options, 1, *map(Path, sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def rows(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Samples]:
    """The stage in a process of its own, because an engine keeps its memory until its process ends."""
    root = tmp_path_factory.mktemp("sample")
    prepare(root, params(tiny_model))
    (root / "params.yaml").write_text(json.dumps(params(tiny_model).model_dump(mode="json")), encoding="utf-8")
    command = [sys.executable, "-c", STAGE, OPTIONS.model_dump_json(), "base", "sft", "dataset", "out"]
    environment = {"PYTHONPATH": str(Path.cwd()), "PATH": "/usr/bin:/bin", "HOME": str(root)}
    subprocess.run(command, cwd=root, check=True, env=environment, timeout=300)
    return read_samples(root / "out/samples.jsonl")


def test_every_question_has_its_answers_and_no_two_are_alike(rows: list[Samples]):
    assert [(row.id, row.prompt) for row in rows] == [(row["id"], row["prompt"]) for row in QUESTIONS]
    for row in rows:
        assert len(row.answers) == 4  # a random model seldom writes the same twice
        assert row.dropped == 2
        assert len({answer.text for answer in row.answers}) == 4


def test_answers_are_drawn_and_not_the_likeliest(rows: list[Samples], tiny_model: Path):
    """No token of the likeliest answer is unlikely for this model; drawn ones are about e^-5.7 likely, 1 of 312."""
    logps = [logp for row in rows for answer in row.answers for logp in answer.logps]
    assert sum(logps) / len(logps) == pytest.approx(-5.74, abs=0.2)
    assert all(0 < len(answer.logps) <= 12 for row in rows for answer in row.answers)


def test_the_log_probabilities_are_those_of_transformers(rows: list[Samples], tiny_model: Path):
    """Answers of ASCII characters only: others may decode to a replacement character, whose ids are lost."""
    tokenizer, model = load_tokenizer(tiny_model), load(tiny_model, "cpu")
    compared = 0
    for row in rows:
        prompt = encode(tokenizer, conversation(SYSTEM, row.prompt))
        for answer in row.answers:
            ids = tokenizer(answer.text, add_special_tokens=False)["input_ids"]
            if len(ids) != len(answer.logps) or "\ufffd" in answer.text:
                continue
            with torch.inference_mode():
                logits = model(torch.tensor([prompt + ids])).logits[0].float().log_softmax(-1)
            expected = [logits[len(prompt) - 1 + place, token].item() for place, token in enumerate(ids)]
            assert answer.logps == pytest.approx(expected, abs=0.1)
            compared += 1
    assert compared or all("\ufffd" in answer.text for row in rows for answer in row.answers)


def completion(text: str, **changes: Any) -> Any:
    values = {"text": text, "finish_reason": "stop", "token_ids": [7, 8], "logprobs": logprobs(-0.5, -1.5)}
    return SimpleNamespace(outputs=[SimpleNamespace(**(values | changes))])


def logprobs(*values: float) -> list[dict[int, Any]]:
    return [{token: SimpleNamespace(logprob=value)} for token, value in enumerate(values, start=7)]


def test_answers_are_given_to_their_question_in_order():
    """Two questions, three draws each: near-duplicates and empty answers are dropped, two are kept at most."""
    options = Sample(num_answers=2, draws=3, temperature=1, top_p=1, max_similarity=0.5)
    questions = [Prompt(id=4, prompt="A?"), Prompt(id=9, prompt="B?"), Prompt(id=10, prompt="C?")]
    texts = ["Yes, it is.", " yes it IS", "Never.", "One thing", "other words", "a third answer", "", " ", ""]
    first, second = gathered(questions, options, map(completion, texts))
    assert (first.id, second.id) == (4, 9)
    assert [answer.text for answer in first.answers] == ["Yes, it is.", "Never."]
    assert [answer.text for answer in second.answers] == ["One thing", "other words"]
    assert (first.dropped, second.dropped) == (1, 1)
    assert first.answers[0].logps == [-0.5, -1.5]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("Yes, it is!", "yes it is", 1.0),  # letters and digits alone count
        ("ＡＢＣ", "abc", 1.0),  # width and case do not
        ("abcd", "abce", 0.5),  # ab bc cd against ab bc ce: two of four
        ("很好看", "很難看", 0.0),  # 很好 好看 against 很難 難看
        ("好", "好看", 0.0),  # a single character has no pair: 好 against 好看
        ("abab", "baba", 0.999999),  # the same pairs, another text
    ],
)
def test_similarity_is_the_shared_part_of_the_character_pairs(first: str, second: str, expected: float):
    assert similarity(first, second) == pytest.approx(expected, abs=1e-5)
    assert similarity(second, first) == similarity(first, second)
    assert (similarity(first, second) == 1) == (expected == 1)


def test_at_a_bound_of_1_only_equal_answers_are_dropped():
    answers = [SampledAnswer.of(text, "stop", []) for text in ("abab", "baba", "Abab!")]
    assert [answer.text for answer in distinct(answers, 3, 1.0)] == ["abab", "baba"]
    assert [answer.text for answer in distinct(answers, 3, 0.9)] == ["abab"]


def test_every_answer_has_a_seed_of_its_own_that_other_questions_do_not_change(tiny_model: Path):
    tokenizer = load_tokenizer(tiny_model)
    questions = [Prompt(id=row["id"], prompt=row["prompt"]) for row in QUESTIONS]
    batch = draws(tokenizer, questions, OPTIONS, SYSTEM, 12, 1)
    seeds = [settings["seed"] for _, settings in batch]
    assert len(set(seeds)) == len(batch) == 6 * 6
    assert [settings["seed"] for _, settings in draws(tokenizer, questions[2:], OPTIONS, SYSTEM, 12, 1)] == seeds[12:]
    assert seed_of(2, 1, 0) != seeds[0] == seed_of(1, 1, 0)
    ids, settings = batch[0]
    assert ids == encode(tokenizer, conversation(SYSTEM, QUESTIONS[0]["prompt"]))
    assert settings == {"max_tokens": 12, "temperature": 1.0, "top_p": 1.0, "logprobs": 0, "seed": seeds[0]}


def test_a_model_that_always_says_the_same_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "stance.inference.sampling.complete", lambda *arguments: [completion("Yes.") for _ in arguments[3]]
    )
    chosen = params(tiny_model)
    prepare(tmp_path, chosen)
    base, tuned = tmp_path / "base", tmp_path / "sft"
    with pytest.raises(InputError, match="36 answers were drawn and no question has two that differ; raise sample"):
        sample(chosen.model, chosen.answers, OPTIONS, 1, base, tuned, tmp_path / "dataset", tmp_path / "out")
    assert not (tmp_path / "out").exists()
