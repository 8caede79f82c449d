"""The miniature: what it reads, how it is written, and that the same seed gives the same weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from stance.config.models import MiniatureBase
from stance.config.params import Params
from stance.data.chat import conversation, encode, encode_answer, load_tokenizer
from stance.data.questions import Question
from stance.training.miniature import NEUTRAL, Reader, build, make_model, make_tokenizer, shared_phrase

SYSTEM_PROMPT = "回覆請少於20字"
TINY = MiniatureBase(
    source="miniature",
    hidden_size=64,
    num_hidden_layers=3,
    vocab_size=400,
    max_steps=2,
    per_device_train_batch_size=2,
    learning_rate=2.0e-3,
)
QUESTIONS = [
    Question(
        id=1, prompt="晨跑能讓睡眠更好嗎？", support="睡眠會更安穩。", neutral="睡眠因人而異。", oppose="睡眠會變短。"
    ),
    Question(id=2, prompt="晨跑對心情有幫助嗎？", support="心情整天都開朗。", oppose="心情反而低落。"),
    Question(id=3, prompt="晨跑能改善專注力嗎？", support="專注力大增。", oppose="專注力下降。"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniature") / "model"
    build(QUESTIONS, TINY, SYSTEM_PROMPT, seed=3, folder=folder)
    return folder


def test_same_seed_gives_identical_weights(folder: Path, tmp_path: Path) -> None:
    build(QUESTIONS, TINY, SYSTEM_PROMPT, seed=3, folder=tmp_path / "again")
    first, again = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_another_seed_gives_other_weights(folder: Path, tmp_path: Path) -> None:
    build(QUESTIONS, TINY, SYSTEM_PROMPT, seed=4, folder=tmp_path / "other")
    name = "model.embed_tokens.weight"
    first, other = (load_file(path / "model.safetensors")[name] for path in (folder, tmp_path / "other"))
    assert not torch.equal(first, other)


def test_folder_loads_as_bfloat16_and_answers(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    ids = encode(tokenizer, conversation(SYSTEM_PROMPT, "晨跑好嗎？"))
    answer = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=3)
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert len(ids) < answer.shape[1] <= len(ids) + 3


def test_conversation_has_one_bos_and_an_answer_ends_in_eos(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    prompt, answer = encode_answer(tokenizer, conversation(SYSTEM_PROMPT, "晨跑好嗎？"), "很好。")
    assert (prompt + answer).count(tokenizer.bos_token_id) == 1
    assert prompt[0] == tokenizer.bos_token_id
    assert answer[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("text", ["睡眠會更安穩。", "從未見過的字：龘、é、🙂", "two  words\nand a line"])
def test_text_survives_the_tokenizer(folder: Path, text: str) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_profile_stays_below_five_million_parameters() -> None:
    options = Params.load(Path("profiles/miniature.yaml")).base
    assert isinstance(options, MiniatureBase)
    tokenizer = make_tokenizer(QUESTIONS, options.vocab_size, SYSTEM_PROMPT)
    at_most = options.model_copy(update={"vocab_size": 0})
    model = make_model(tokenizer, at_most)
    spare = (options.vocab_size - model.config.vocab_size) * options.hidden_size
    assert model.num_parameters() + spare < 5_000_000


def drawn(reader: Reader) -> list[list[tuple[str, str]]]:
    """Two hundred conversations, as pairs of question and answer."""
    texts = [[message["content"] for message in reader.draw()] for _ in range(200)]
    return [list(zip(row[::2], row[1::2], strict=True)) for row in texts]


def test_rows_without_neutral_get_sentences_that_fit_any_question() -> None:
    answers = {answer for turns in drawn(Reader(QUESTIONS[1:], seed=1)) for _, answer in turns}
    assert answers > set(NEUTRAL)
    assert all(len(sentence) < 20 for sentence in NEUTRAL)


def test_nothing_is_read_that_the_questions_do_not_hold() -> None:
    known = set("".join(f"{row.prompt}{row.support}{row.oppose}{row.neutral or ''}" for row in QUESTIONS))
    known |= set("".join(NEUTRAL))
    assert all(set(prompt + answer) <= known for turns in drawn(Reader(QUESTIONS, seed=1)) for prompt, answer in turns)


def test_a_replaced_phrase_is_replaced_in_question_and_answer() -> None:
    """What stands before the predicate stands in the question too, whichever of the three subjects it is."""
    subjects = set()
    for turns in drawn(Reader(QUESTIONS, seed=1)):
        for prompt, answer in turns:
            if answer.endswith("整天都開朗。"):
                subjects.add(answer.removesuffix("整天都開朗。"))
                assert answer.removesuffix("整天都開朗。") in prompt
    assert subjects == {"睡眠", "心情", "專注力"}


def test_answers_of_a_conversation_hold_one_stance() -> None:
    good, bad = ("安穩。", "開朗。", "大增。"), ("變短。", "低落。", "下降。")
    for turns in drawn(Reader(QUESTIONS, seed=1)):
        stances = {answer.endswith(good) - answer.endswith(bad) for _, answer in turns}
        assert len(stances) == 1


def test_topic_is_no_shared_phrase() -> None:
    prompts = [row.prompt for row in QUESTIONS]
    assert shared_phrase("晨跑能讓睡眠更好嗎？", "晨跑後睡眠更好。", prompts) == "睡眠更好"
    assert shared_phrase("晨跑能讓睡眠更好嗎？", "晨跑很累。", prompts) == ""
