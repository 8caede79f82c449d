"""The fine-tuning: trained on answers alone, followed by a training that begins where it ended."""

import csv
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from stance.config.params import Params
from stance.config.training import PlainText, Sft
from stance.data.chat import load_tokenizer
from stance.data.noise import Floor
from stance.data.plain_text import RECORD, Pretraining
from stance.data.road import NOTE, TEXT
from stance.data.training import FineTuning, Joint
from stance.errors import InputError
from stance.evaluation.gates import joint_gates
from tasks.sft import sft
from tasks.train import train
from tests.builders.small_run import params, prepare, sharpened, train_in

NOISE = Floor(mean=0.001, worst=0.01)


@pytest.fixture(scope="module")
def chosen(tiny_model: Path) -> Params:
    return params(tiny_model, sft={"num_epoch": 8, "learning_rate": 2e-2}, train__num_epoch=1)


@pytest.fixture(scope="module")
def root(chosen: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    prepare(folder, chosen)
    train_in(folder, chosen)
    return folder


def tune(chosen: Params, root: Path, out: Path, **options: object) -> FineTuning:
    """Fine-tune with other options, and return the record."""
    assert chosen.sft
    block = chosen.sft.model_copy(update=options)
    sft(chosen.model, block, chosen.train, chosen.seed, root / "base", root / "pairs", out)
    return FineTuning.read(out / "sft.json")


def test_only_the_answer_and_its_end_are_trained_on(root: Path, tiny_model: Path):
    """Breeze's template: `<s>system prompt [INST] question [/INST] answer</s>`, worked out by hand."""
    record, tokenizer = FineTuning.read(root / "adapter-sft/sft.json"), load_tokenizer(tiny_model)
    pairs = [json.loads(line) for line in (root / "pairs/train.jsonl").read_text().splitlines()]
    assert record.rows == len(record.examples) == len(pairs)
    ends = []
    for row, pair in zip(record.examples, pairs, strict=True):
        system, question = (turn["content"] for turn in pair["prompt"])
        answer = f"{pair['chosen'][0]['content']}</s>"
        assert "".join(piece.text for piece in row if not piece.trained) == f"<s>{system} [INST] {question} [/INST] "
        assert "".join(piece.text for piece in row if piece.trained) == answer
        ends.append(len(tokenizer(answer, add_special_tokens=False)["input_ids"]))
    assert record.trained_tokens == sum(ends)


def test_the_loss_on_the_answers_falls(tiny_model: Path, tmp_path: Path):
    """The tiny model itself gives all tokens about the same probability, and its frozen head keeps them near it."""
    chosen = params(
        sharpened(tiny_model, tmp_path / "sharp"), sft={"num_epoch": 8, "learning_rate": 2e-2}, train__num_epoch=1
    )
    prepare(tmp_path, chosen)
    record = tune(chosen, tmp_path, tmp_path / "sft")
    assert record.last_loss < 0.8 * record.first_loss
    rows = list(csv.DictReader((tmp_path / "sft/log.csv").read_text().splitlines()))
    assert float(rows[0]["loss"]) == pytest.approx(record.first_loss)


def test_a_loss_that_is_no_number_ends_the_fine_tuning_and_names_the_learning_rate(chosen, root, tmp_path):
    with pytest.raises(InputError, match=r"^loss is nan at step \d .*; lower sft\.learning_rate, which is 1e\+30$"):
        tune(chosen, root, tmp_path / "sft", learning_rate=1e30)


def test_the_training_begins_where_the_fine_tuning_ended(root: Path):
    joint = Joint.read(root / "adapter-log/joint.json")
    assert joint.reference is not None
    assert (joint.reference.worst, joint.first_reward) == (pytest.approx(0, abs=1e-3), pytest.approx(0, abs=1e-6))
    [gate] = joint_gates(NOISE, joint)
    assert gate.passed
    first = next(csv.DictReader((root / "adapter-log/log.csv").read_text().splitlines()))
    assert float(first["rewards/margins"]) == pytest.approx(0, abs=1e-6)


def test_the_adapter_is_one_and_holds_both_trainings(root: Path):
    assert sorted(path.name for path in (root / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    before = load_file(root / "adapter-sft/adapter/adapter_model.safetensors")
    after = load_file(root / "adapter/adapter_model.safetensors")
    assert before.keys() == after.keys()
    key = next(name for name in before if "lora_B" in name)
    assert before[key].abs().max() > 0
    assert not after[key].equal(before[key])


def test_a_joint_that_is_broken_on_purpose_is_named(root: Path, chosen: Params, tmp_path: Path):
    """Another adapter than the one whose log-probabilities were recorded."""
    broken = tmp_path / "sft"
    tune(chosen, root, broken)
    path = broken / "adapter/adapter_model.safetensors"
    weights = {name: 1.5 * weight for name, weight in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})
    folders = (
        root / "base",
        root / "pairs",
        root / "answers",
        broken,
        tmp_path / "rl",
        tmp_path / "adapter",
        tmp_path,
        tmp_path / "checkpoints",
    )
    train(chosen.model, chosen.train, chosen.seed, *folders)
    [gate] = joint_gates(NOISE, Joint.read(tmp_path / "joint.json"))
    assert (gate.name, gate.passed) == ("joint", False)


@pytest.mark.parametrize("block", [None, Sft(num_epoch=0, learning_rate=1.0)])
def test_without_epochs_the_note_is_left_and_nothing_else_is_written(block, root, chosen: Params, tmp_path: Path):
    sft(chosen.model, block, chosen.train, chosen.seed, root / "base", root / "pairs", tmp_path)
    assert (tmp_path / NOTE).read_text() == TEXT
    assert [path.name for path in tmp_path.iterdir()] == [NOTE]


def test_conversations_of_several_tasks_are_learned_beside_the_answers(root: Path, chosen: Params, tmp_path: Path):
    turns = [
        {"role": "system", "content": "翻譯。"},
        {"role": "user", "content": "早安"}, {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "晚安"}, {"role": "assistant", "content": "Night"},
    ]  # fmt: skip
    path = tmp_path / "more.jsonl"
    path.write_text(json.dumps({"messages": turns}, ensure_ascii=False) + "\n", encoding="utf-8")
    before = FineTuning.read(root / "adapter-sft/sft.json")
    record = tune(chosen, root, tmp_path / "sft", num_epoch=1, conversations=str(path))
    assert record.rows == before.rows + 1


USER, MARK = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b</s>"}


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([{"messages": [USER]}], "row 1: expected a question and then an answer at the end"),
        ([{"text": "a"}], "row 1: messages: "),
        ([{"messages": [USER, MARK]}], "</s>"),
        ([{"messages": [USER, MARK | {"content": "b" * 2000}]}], "cut off"),
    ],
    ids=["no-answer", "no-messages", "control-token", "too-long"],
)
def test_a_wrong_conversation_is_refused_by_its_row(root, chosen, tmp_path, lines, sentence):
    path = tmp_path / "more.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=sentence):
        tune(chosen, root, tmp_path / "sft", conversations=str(path))
    assert not (tmp_path / "sft").exists()


def texts(path: Path, *lines: object) -> PlainText:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return PlainText(path=str(path), num_epoch=20, learning_rate=2e-2)


def test_plain_text_is_learned_first_and_the_answers_begin_where_it_ended(root: Path, chosen: Params, tmp_path: Path):
    """Without a step on the answers that moves it, the adapter is that of the plain text."""
    block = texts(tmp_path / "plain.jsonl", {"text": "天上的雲很白。" * 6}, {"text": "河裡的水很清。" * 6})
    nearly_still = {"num_epoch": 0.01, "learning_rate": 1e-12}
    tune(chosen, root, tmp_path / "still", **nearly_still)
    tune(chosen, root, tmp_path / "after", **nearly_still, plain_text=block)
    record = Pretraining.read(tmp_path / "after" / RECORD)
    assert record.texts == 2
    assert record.blocks == -(-record.tokens // chosen.train.max_length)
    assert record.last_loss < record.first_loss - 0.5
    still, after = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("still", "after"))
    up = [name for name in still if "lora_B" in name]
    assert max(float(still[name].abs().max()) for name in up) < 1e-9
    assert min(float(after[name].abs().max()) for name in up) > 1e-3
    assert not (tmp_path / "still" / RECORD).exists()


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "holds no text"),
        ([{"text": "雲"}, {"messages": []}], "row 2: expected"),
        ([{"text": "雲</s>"}], "</s>"),
    ],
    ids=["empty", "no-text", "control-token"],
)
def test_a_wrong_plain_text_is_refused_by_its_row(root, chosen, tmp_path, lines, sentence):
    with pytest.raises(InputError, match=sentence):
        tune(chosen, root, tmp_path / "sft", plain_text=texts(tmp_path / "plain.jsonl", *lines))
    assert not (tmp_path / "sft").exists()
