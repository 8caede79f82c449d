"""Which data sets are read, and what is said of the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from stance.data.questions import (
    LABELLED,
    TEST,
    Prompt,
    Question,
    read_both,
    read_prompts,
    read_questions,
    rows_in_words,
    unused_columns,
)
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


def test_a_shared_id_is_named_beside_the_other_faults_also_that_of_a_wrong_row(questions_folder):
    rows = rows_of(questions_folder / LABELLED)
    rows[2].pop("support")
    rows[6]["id"], rows[8]["id"] = 2, rows[2]["id"]
    (questions_folder / LABELLED).write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read_questions(questions_folder)
    assert str(refused.value).endswith(
        "row 3: support: field required; row 7: id 2 is already the id of row 2; row 9: id 3 is already the id of "
        "row 3; a row needs id, prompt, support, oppose, none of them empty, and give every row an id of its own"
    )


def test_all_faults_of_a_file_are_named_at_once_and_equal_ones_together(questions_folder):
    rows = rows_of(questions_folder / LABELLED)
    for row in rows[2:6]:
        row.pop("support")
    rows[2]["oppose"], rows[8]["id"] = " ", "nine"
    rows[9]["Prompt"] = rows[9].pop("prompt")
    (questions_folder / LABELLED).write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read_questions(questions_folder)
    assert str(refused.value).split(f"{LABELLED}, ")[1].split("; ") == [
        "rows 3 to 6: support: field required",
        "row 3: oppose: string should have at least 1 character",
        "row 9: id: input should be a valid integer, unable to parse string as an integer",
        "row 10: prompt: field required (there is 'Prompt': rename it)",
        "a row needs id, prompt, support, oppose, none of them empty",
    ]


def test_the_faults_of_both_files_are_named_at_once(questions_folder):
    (questions_folder / LABELLED).write_text("[]", encoding="utf-8")
    (questions_folder / TEST).write_text('[{"id": 1}]', encoding="utf-8")
    with pytest.raises(InputError, match=rf"{LABELLED} holds an empty list.*{TEST}, row 1: prompt: field required"):
        read_both(questions_folder)


def test_rows_in_words():
    assert [rows_in_words(numbers) for numbers in ([3], [1, 2], [1, 4, 5, 6, 9])] == [
        "row 3",
        "rows 1, 2",
        "rows 1, 4 to 6, 9",
    ]


def test_other_columns_are_ignored_and_named(questions_folder):
    rows = rows_of(questions_folder / LABELLED)
    rows[0] |= {"source": "a poll", "netural": "好壞都有。"}
    (questions_folder / LABELLED).write_text(json.dumps(rows), encoding="utf-8")
    (questions_folder / TEST).write_text('[{"id": 1, "prompt": "好嗎？", "support": "好。"}]', encoding="utf-8")
    assert read_questions(questions_folder)[0].neutral is None
    assert read_prompts(questions_folder) == [Prompt(id=1, prompt="好嗎？")]
    assert unused_columns(questions_folder) == [
        f"{questions_folder / LABELLED}: the columns netural, source will not be used",
        f"{questions_folder / TEST}: the column support will not be used",
    ]


def test_a_text_that_is_no_unicode_is_refused(questions_folder):
    """Half of a surrogate pair, as a program leaves that cuts texts in UTF-16; no file could hold it later."""
    (questions_folder / TEST).write_text(r'[{"id": 1, "prompt": "\ud83d"}]', encoding="utf-8")
    with pytest.raises(InputError, match=f"{TEST}, row 1: prompt: "):
        read_prompts(questions_folder)


def test_ids_that_are_shared_are_all_named(questions_folder):
    rows = rows_of(questions_folder / LABELLED)
    rows[4]["id"], rows[6]["id"] = 1, 2
    (questions_folder / LABELLED).write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(InputError, match=r"row 5: id 1 is already .* row 1; row 7: id 2 is already the id of row 2; "):
        read_questions(questions_folder)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[]", r"holds an empty list; expected a list of rows, at least one"),
        (b"{}", r"holds a JSON dict; expected a list of rows"),
        (b"null", r"holds a JSON NoneType; expected a list of rows"),
        (b'[\n  {"id": 1,}\n]', r"is not JSON: .* at line 2, column 1\d; correct the file there"),
        (b"", r"is not JSON: .* at line 1, column 1; correct the file there"),
        ('["真人"]'.encode("big5"), r"is not UTF-8 \(byte 2\); save it as UTF-8"),
        ('["真人"]'.encode("utf-16-le"), r"is not JSON: .*|is not UTF-8 \(byte \d\); save it as UTF-8"),
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
