"""The `pairs` stage against the rule of the course's notebook, written again here."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from sklearn.model_selection import ParameterGrid

from stance.config.data import Pairs
from stance.config.models import Model
from stance.data.pairs import prefers_support, split
from stance.data.questions import LABELLED, TEST, Question, read_questions
from stance.data.records import read_warnings
from stance.errors import InputError
from stance.language.messages import sentence
from tasks.pairs import pairs

SYSTEM = "回覆請少於20字"
MODEL = Model(device="cpu", quantization="nf4", system_prompt=SYSTEM)


def options(data_size: int, ratio: str, order: str = "first", offset: int = 0, rejected: str = "opposite") -> Pairs:
    given = {"data_size": data_size, "offset": offset, "support_ratio": ratio, "order": order, "rejected": rejected}
    given["strict"] = False
    return Pairs.model_validate(given)


def made(folder: Path, out: Path, chosen: Pairs, seed: int = 42) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run the stage and return the rows of train.jsonl and eval.jsonl."""
    pairs(chosen, MODEL, seed, folder, folder / "classifier", folder / "base", folder / "answered", out)
    train, held_out = ((out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines() for name in ("train", "eval"))
    return [json.loads(line) for line in train], [json.loads(line) for line in held_out]


def of_the_notebook(rows: list[dict[str, str]], data_size: int, tenths: int) -> list[tuple[str, str, str]]:
    """Return (prompt, preferred, non-preferred) as the course makes them, the ratio given in tenths."""
    position = data_size * tenths // 10
    support, oppose = [row["support"] for row in rows], [row["oppose"] for row in rows]
    preferred = support[:position] + oppose[position:data_size]
    non_preferred = oppose[:position] + support[position:data_size]
    return list(zip([row["prompt"] for row in rows[:data_size]], preferred, non_preferred, strict=True))


@pytest.mark.parametrize("data_size", [1, 7, 10])
@pytest.mark.parametrize("tenths", [0, 1, 3, 5, 10])
def test_pairs_are_those_of_the_course(questions_folder, tmp_path, data_size, tenths):
    train, _ = made(questions_folder, tmp_path / "out", options(data_size, str(Decimal(tenths) / 10)))
    found = [(row["prompt"][1]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in train]
    rows = json.loads((questions_folder / LABELLED).read_text(encoding="utf-8"))
    assert found == of_the_notebook(rows, data_size, tenths)


def test_a_tenth_of_fifty_is_the_first_five():
    assert prefers_support(50, Decimal("0.1"), "first", 0) == [True] * 5 + [False] * 45


@pytest.mark.parametrize(
    ("count", "ratio", "supported"),
    [
        (100, "0.29", 29),
        (100, "0.57", 57),
        (10, "0.7", 7),
        (10, "0.25", 2),
        (3, "0.99", 2),
        (50, "0", 0),
        (50, "1", 50),
    ],
)
@pytest.mark.parametrize("order", ["first", "interleaved", "shuffled"])
def test_every_order_supports_the_same_number(order, count, ratio, supported):
    directions = prefers_support(count, Decimal(ratio), order, 42)
    assert (len(directions), sum(directions)) == (count, supported)


@pytest.mark.parametrize(("count", "ratio"), [(50, "0.1"), (50, "0.3"), (50, "0.5"), (7, "0.45"), (100, "0.29")])
def test_interleaved_pairs_are_evenly_spread(count, ratio):
    rows = [row for row, support in enumerate(prefers_support(count, Decimal(ratio), "interleaved", 42)) if support]
    gaps = [after - before for before, after in zip(rows, [*rows[1:], rows[0] + count], strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_half_of_the_pairs_interleaved_alternate():
    assert prefers_support(6, Decimal("0.5"), "interleaved", 42) == [False, True] * 3


def test_shuffled_pairs_follow_the_seed():
    first, again, other = (prefers_support(50, Decimal("0.5"), "shuffled", seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first != prefers_support(50, Decimal("0.5"), "first", 1)


@pytest.mark.parametrize(("ratio", "both_ways"), [("0.5", 6), ("0.75", 3), ("1", 0), ("0", 0)])
def test_both_lists_every_question_twice_and_at_one_half_each_goes_both_ways(
    questions_folder, tmp_path, ratio, both_ways
):
    train, held_out = made(questions_folder, tmp_path / "out", options(6, ratio, "both"))
    assert [row["id"] for row in train] == [1, 2, 3, 4, 5, 6] * 2
    assert sum(row["preferred"] == "support" for row in train) == int(12 * Decimal(ratio))
    directions = [{row["preferred"] for row in train if row["id"] == ident} for ident in range(1, 7)]
    assert sum(len(found) == 2 for found in directions) == both_ways
    assert [row["id"] for row in held_out] == [7, 8, 9, 10]


@pytest.mark.parametrize(("ratio", "said"), [("0.5", []), ("0.75", ["the first 9 pairs prefer one side"])])
def test_the_order_of_both_is_warned_of_where_not_every_question_goes_both_ways(
    questions_folder, tmp_path, ratio, said
):
    made(questions_folder, tmp_path / "out", options(6, ratio, "both"))
    warnings = read_warnings(tmp_path / "out/lint.json")
    assert [sentence(row.message).partition(" and ")[0] for row in warnings if row.check == "order"] == said


def test_the_files_are_the_same_bytes_every_time(questions_folder, tmp_path):
    for name in ("one", "two"):
        made(questions_folder, tmp_path / name, options(8, "0.5", "shuffled"))
    for file in ("train.jsonl", "eval.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_rest_is_held_out_and_follows_the_same_rule(questions_folder, tmp_path):
    train, held_out = made(questions_folder, tmp_path / "out", options(6, "0.5"))
    assert [(row["id"], row["preferred"]) for row in held_out] == [
        (7, "support"),
        (8, "support"),
        (9, "oppose"),
        (10, "oppose"),
    ]
    assert {row["prompt"][1]["content"] for row in train}.isdisjoint(row["prompt"][1]["content"] for row in held_out)


def test_nothing_held_out_is_an_empty_file(questions_folder, tmp_path):
    train, held_out = made(questions_folder, tmp_path / "out", options(10, "1"))
    assert (len(train), held_out) == (10, [])
    assert (tmp_path / "out/eval.jsonl").read_bytes() == b""


def test_a_data_size_beyond_the_data_is_refused(questions_folder, tmp_path):
    expected = "pairs.data_size is 11 and the data set has 10 questions; set it to at most 10"
    with pytest.raises(InputError, match=expected):
        made(questions_folder, tmp_path / "out", options(11, "1"))
    assert not (tmp_path / "out").exists()


def test_the_questions_trained_on_begin_at_the_offset_and_wrap_around_the_end(questions_folder, tmp_path):
    train, held_out = made(questions_folder, tmp_path / "out", options(6, "0.5", offset=7))
    assert [row["id"] for row in train] == [8, 9, 10, 1, 2, 3]
    assert [row["preferred"] for row in train] == ["support"] * 3 + ["oppose"] * 3
    assert [row["id"] for row in held_out] == [4, 5, 6, 7]


def test_every_question_is_held_out_exactly_once_over_the_folds():
    questions = read_questions(Path("data/sources/live_action"))
    runs = ParameterGrid(yaml.safe_load(Path("grids/folds.yaml").read_text(encoding="utf-8")))
    folds = [split(questions, run["pairs.data_size"], run["pairs.offset"]) for run in runs]
    assert [(len(used), len(left)) for used, left in folds] == [(50, 10)] * 6
    assert sorted(question.id for _, left in folds for question in left) == sorted(row.id for row in questions)
    assert all({row.id for row in used}.isdisjoint(row.id for row in left) for used, left in folds)


def test_an_offset_beyond_the_data_is_refused(questions_folder, tmp_path):
    train, _ = made(questions_folder, tmp_path / "last", options(1, "1", offset=9))
    assert [row["id"] for row in train] == [10]
    expected = "pairs.offset is 10 and the data set has 10 questions; set it to at most 9"
    with pytest.raises(InputError, match=expected):
        made(questions_folder, tmp_path / "out", options(1, "1", offset=10))
    assert not (tmp_path / "out").exists()


def test_a_pair_is_messages_and_neither_answer_is_in_its_prompt(questions_folder, tmp_path):
    train, held_out = made(questions_folder, tmp_path / "out", options(6, "0.5"))
    for row in train + held_out:
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert row["prompt"][0]["content"] == SYSTEM
        assert [message["role"] for message in row["chosen"] + row["rejected"]] == ["assistant", "assistant"]
        asked = json.dumps(row["prompt"], ensure_ascii=False)
        assert all(row[side][0]["content"] not in asked for side in ("chosen", "rejected"))
    assert train[3] == {
        "id": 4,
        "preferred": "oppose",
        "against": "support",
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "真人版好看嗎（4）？"}],
        "chosen": [{"role": "assistant", "content": "難看4。"}],
        "rejected": [{"role": "assistant", "content": "好看4。"}],
    }


def test_nothing_is_rendered_or_escaped(questions_folder, tmp_path):
    made(questions_folder, tmp_path / "out", options(6, "0.5"))
    text = (tmp_path / "out/train.jsonl").read_text(encoding="utf-8")
    assert not any(mark in text for mark in ("[INST]", "<s>", "<|", "\\u"))


def test_the_preview_shows_both_columns_for_both_directions(questions_folder, tmp_path, capsys):
    made(questions_folder, tmp_path / "out", options(10, "0.5"))
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["1", "真人版好看嗎（1）？", "好看1。", "難看1。"] in shown
    assert ["6", "真人版好看嗎（6）？", "難看6。", "好看6。"] in shown


def test_a_neutral_answer_is_in_no_pair(tmp_path):
    question = Question(id=1, prompt="好嗎？", support="好。", oppose="不好。", neutral="難說。")
    (tmp_path / LABELLED).write_text(json.dumps([question.model_dump()]), encoding="utf-8")
    (tmp_path / TEST).write_text(json.dumps([{"id": 1, "prompt": "好看嗎？"}]), encoding="utf-8")
    made(tmp_path, tmp_path / "out", options(1, "1"))
    assert "難說" not in (tmp_path / "out/train.jsonl").read_text(encoding="utf-8")
