"""Which data sets are read, and what is said of the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from stance.data.questions import LABELLED, TEST, Prompt, Question, read_prompts, read_questions
from stance.errors import InputError


def rows_of(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_questions_are_read_in_the_order_of_the_file(questions_folder):
    questions = read_questions(questions_folder)
    assert [question.id for question in questions] == list(range(1, 11))
    assert questions[1] == Question(id=2, prompt="真人版好看嗎（2）？", support="好看2。", oppose="難看2。")
    assert questions[1].neutral is None
    assert read_prompts(questions_folder)[1] == Prompt(id=2, prompt="動畫該改編嗎（2）？")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows[2].pop("support"), r"row 3: support: field required"),
        (lambda rows: rows[9].pop("id"), r"row 10: id: field required"),
        (lambda rows: rows[1].update(oppose=""), r"row 2: oppose: .*at least 1 character"),
        (lambda rows: rows[1].update(prompt=" \n"), r"row 2: prompt: .*at least 1 character"),
        (lambda rows: rows[1].update(neutral=""), r"row 2: neutral: .*at least 1 character"),
        (lambda rows: rows[4].update(support=None), r"row 5: support: .*valid string"),
        (lambda rows: rows[0].update(stance="support"), r"row 1: stance: extra inputs are not permitted"),
        (lambda rows: rows[5].update(id="six"), r"row 6: id: .*valid integer"),
        (lambda rows: rows.insert(3, "a text"), r"row 4: the row: "),
    ],
)
def test_a_row_that_breaks_the_schema_is_named(questions_folder, change, problem):
    rows = rows_of(questions_folder / LABELLED)
    change(rows)
    (questions_folder / LABELLED).write_text(json.dumps(rows), encoding="utf-8")
    expected = rf"{LABELLED}, {problem}.*; a row needs id, prompt, support, oppose, none of them empty$"
    with pytest.raises(InputError, match=expected):
        read_questions(questions_folder)


def test_a_duplicate_id_names_both_rows(questions_folder):
    rows = rows_of(questions_folder / LABELLED)
    rows[6]["id"] = 2
    (questions_folder / LABELLED).write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(InputError, match="row 7: id 2 is already the id of row 2; give every row an id of its own"):
        read_questions(questions_folder)


def test_a_test_prompt_has_no_answers(questions_folder):
    (questions_folder / TEST).write_text('[{"id": 1, "prompt": "好嗎？", "support": "好。"}]', encoding="utf-8")
    with pytest.raises(InputError, match=rf"{TEST}, row 1: support: extra .*; a row needs id, prompt, none"):
        read_prompts(questions_folder)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[]", r"holds an empty list; expected a list of rows, at least one"),
        (b"{}", r"holds a JSON dict; expected a list of rows"),
        (b"null", r"holds a JSON NoneType; expected a list of rows"),
        (b'[\n  {"id": 1,}\n]', r"is not JSON: .* at line 2, column 1\d; correct the file there"),
        (b"", r"is not JSON: .* at line 1, column 1; correct the file there"),
        ('["真人"]'.encode("big5"), r"is not UTF-8 \(byte 2\); save it as UTF-8"),
        ('["真人"]'.encode("utf-16"), r"is not UTF-8 \(byte 0\); save it as UTF-8"),
    ],
)
def test_a_file_that_is_no_list_of_rows_is_refused(questions_folder, content, problem):
    (questions_folder / LABELLED).write_bytes(content)
    with pytest.raises(InputError, match=rf"{LABELLED} {problem}"):
        read_questions(questions_folder)


@pytest.mark.parametrize(("name", "read"), [(LABELLED, read_questions), (TEST, read_prompts)])
def test_a_missing_file_is_named(questions_folder, name, read):
    (questions_folder / name).unlink()
    with pytest.raises(
        InputError, match=f"{name} does not exist; expected a data set in .*questions: {LABELLED} and {TEST}"
    ):
        read(questions_folder)
