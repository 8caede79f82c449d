"""Files with rows: what people have is read, and the rest is one sentence."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from stance.config.data import FolderDataset
from stance.data.questions import LABELLED, TEST, read_prompts, read_questions, table_in_json
from stance.data.tables import read_table
from stance.errors import InputError
from tasks.dataset import dataset

ROWS = [
    {"id": 1, "prompt": "好看嗎？", "support": "好看，\n真的。", "oppose": '不"好看"。'},
    {"id": 2, "prompt": "[b]配樂[/b]呢？", "support": "更好。", "oppose": "更差。"},
]
CSV = 'id,prompt,support,oppose\r\n1,好看嗎？,"好看，\n真的。","不""好看""。"\r\n2,[b]配樂[/b]呢？,更好。,更差。\r\n'
JSON = json.dumps(ROWS, ensure_ascii=False)
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
BOM = "\ufeff"


def in_texts(rows):
    """Return rows as CSV has them, whose cells are all texts."""
    return [{name: str(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.json", (BOM + JSON).encode(), ROWS),
        ("a.json", JSON.encode("utf-16"), ROWS),
        ("a.json", (BOM + JSON).encode("utf-16-be"), ROWS),
        ("a.json", LINES.encode(), ROWS),  # a wrong ending, and no doubt about the content
        ("a.jsonl", (BOM + LINES.replace("\n", "\r\n\r\n")).encode(), ROWS),
        ("a.jsonl", LINES.splitlines()[0].encode(), ROWS[:1]),
        ("a.csv", CSV.encode(), in_texts(ROWS)),
        ("a.csv", (BOM + CSV + ",,,\r\n\r\n").encode(), in_texts(ROWS)),
        ("a.csv", CSV.replace(",", ";").encode(), in_texts(ROWS)),  # Excel in countries with a decimal comma
        ("a.tsv", CSV.replace(",", "\t").encode("utf-16"), in_texts(ROWS)),  # Excel's "Unicode text"
    ],
)
def test_a_file_is_read(tmp_path, name, content, rows):
    (tmp_path / name).write_bytes(content)
    assert read_table(tmp_path / name) == rows


def test_an_empty_cell_of_csv_is_no_text(tmp_path):
    (tmp_path / "a.csv").write_text("id,prompt,neutral\n1,好嗎？,\n", encoding="utf-8")
    assert read_table(tmp_path / "a.csv") == [{"id": "1", "prompt": "好嗎？"}]


def test_a_cell_that_pandas_calls_not_a_number_is_no_text(tmp_path):
    (tmp_path / "a.json").write_text('[{"id": 1, "prompt": "好嗎？", "neutral": NaN}]', encoding="utf-8")
    assert read_table(tmp_path / "a.json") == [{"id": 1, "prompt": "好嗎？", "neutral": None}]


def test_parquet_is_read(tmp_path):
    rows = [ROWS[0] | {"neutral": "都好。"}, ROWS[1]]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet") == rows


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", CSV.encode(), r"is not JSON: .*It seems to hold CSV: rename it to a\.csv, or run `python -m stance"),
        ("a.json", b"[{\xe2\x80\x9cid\xe2\x80\x9d: 1}]", 'mark “ at line 1, column 3 is a typographic one; write " in'),
        ("a.json", b'[\n {"id": 1},\n]', r"a comma stands before the closing \] at line 2, column 11; correct"),
        ("a.json", b"[" * 100000, "is not JSON that can be read"),
        ("a.json", b"[" + b"1" * 5000 + b"]", "is not JSON that can be read"),
        ("a.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "run `git lfs pull` there"),
        ("a.json", b'{"rows": []}', "holds a JSON dict; expected a list of rows"),
        ("a.jsonl", b'{"id": 1}\n{"id": 2,\n', r"a.jsonl, line 2: not JSON: .*; correct the file there"),
        ("a.csv", b"", "holds an empty list"),
        ("a.csv", b"id,prompt\n", "holds an empty list"),
        ("a.csv", b"id,prompt\n1,really, now?\n", "row 1: there are more cells than the 2 columns of the first line"),
        ("a.csv", b"id,prompt,prompt\n1,a,b\n", "has the column prompt twice"),
        ("a.csv", b'id,prompt\n1,"never closed\n', "is not CSV: .*; save it as CSV"),
        ("a.csv", "id,prompt\n1,好嗎？\n".encode("big5"), r"is not UTF-8 \(byte 12\); save it as UTF-8"),
        ("a.csv", b"PK\x03\x04" + bytes(30), "is a zip file, as Excel's workbooks are; save the sheet as CSV"),
        ("a.json", b"PK\x03\x04" + bytes(30), "is a zip file"),
        ("a.csv", b"\xd0\xcf\x11\xe0" + bytes(30), "is a workbook of an old Excel; save the sheet as CSV"),
        ("a.jsonl", b"\x1f\x8b\x08" + bytes(30), "is compressed by gzip; unpack it first"),
        (
            "a.csv",
            "id,prompt\n1,a\n".encode("utf-16-le"),
            "holds the character NUL, as UTF-16 without a byte order mark",
        ),
        ("a.json", b'[{"id": 1, "prompt": "a", "prompt": "b"}]', "an object has the key 'prompt' twice"),
        ("a.jsonl", b'{"id": 1}\n{"id": 2, "id": 3}\n', "line 2: not JSON: an object has the key 'id' twice"),
        ("a.parquet", b"PAR1 and nothing else", "is not parquet: .*; write it again"),
        ("a.parquet", b"", "is not parquet: .*; write it again"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=problem) as refused:
        read_table(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_a_folder_in_the_place_of_a_file_is_one_sentence(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(InputError, match=r"a\.json cannot be read \(Is a directory\)"):
        read_table(tmp_path / "a.json")


def test_a_data_set_in_csv_and_json_lines_becomes_json(tmp_path):
    (tmp_path / "labelled_data.csv").write_text(BOM + CSV, encoding="utf-8")
    (tmp_path / "test_prompt.jsonl").write_text('{"id": 7, "prompt": "票房呢？"}\n', encoding="utf-8")
    dataset(FolderDataset(source="folder", path=tmp_path, probes=None), tmp_path / "out")
    assert json.loads((tmp_path / "out" / LABELLED).read_bytes()) == ROWS
    assert read_questions(tmp_path / "out") == read_questions(tmp_path)
    assert [row.id for row in read_prompts(tmp_path / "out")] == [7]
    assert table_in_json(tmp_path, TEST) == (tmp_path / "out" / TEST).read_bytes()


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "labelled_data.csv").write_text(CSV, encoding="utf-8")
    (tmp_path / LABELLED).write_text(JSON, encoding="utf-8")
    with pytest.raises(InputError, match=r"holds labelled_data\.json and labelled_data\.csv; expected one file"):
        read_questions(tmp_path)
