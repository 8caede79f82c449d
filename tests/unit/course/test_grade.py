"""Downloaded grading conversations, and other files."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from stance.course.grade import disagreement, grade, main, total
from stance.errors import InputError


def fenced(scores: str) -> str:
    return f"以下是評分：\n\n```json\n{scores}\n```\n"


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record.json"


def write(path: Path, *contents: Any) -> Path:
    """Write a conversation whose messages have these contents."""
    messages = [{"role": "user", "content": "請評分"}, *({"role": "assistant", "content": text} for text in contents)]
    path.write_text(json.dumps({"history": [{"messages": messages}, {"messages": []}]}), encoding="utf-8")
    return path


def test_the_total_is_the_sum_of_the_scores(record):
    found = grade(write(record, fenced('{"Q1": 3, "Q2": 4.5, "Q3": -1}')))
    assert [(entry.name, entry.score) for entry in found] == [("Q1", 3), ("Q2", Decimal("4.5")), ("Q3", -1)]
    assert total(found) == Decimal("6.5")


def test_tenths_add_up_exactly(record):
    found = grade(write(record, fenced('{"Q1": 0.1, "Q2": 0.2, "total": 0.3}')))
    assert total(found) == Decimal("0.3")
    assert disagreement(found) is None


def test_a_score_may_stand_beside_its_reason(record):
    found = grade(write(record, fenced('{"Q1": {"score": 3, "reason": "清楚"}, "Q2": {"reason": "無", "score": 1}}')))
    assert [(entry.score, entry.text) for entry in found] == [(3, "清楚"), (1, "無")]
    assert total(found) == 4


def test_text_and_booleans_are_shown_and_not_counted(record):
    found = grade(write(record, fenced('{"Q1": 3, "comment": "7 分", "passed": true}')))
    assert [(entry.score, entry.text) for entry in found] == [(3, ""), (None, "7 分"), (None, "True")]
    assert total(found) == 3


@pytest.mark.parametrize("name", ["total", "Total", "總分", "總分：", "Total Score", "total_score", "總得分", "Sum"])
def test_a_total_in_the_object_is_compared_and_not_added(record, name):
    found = grade(write(record, fenced(f'{{"Q1": 3, "Q2": 4, "{name}": 7}}')))
    assert total(found) == 7
    assert disagreement(found) is None


def test_a_total_that_differs_is_named_beside_the_sum(record):
    found = grade(write(record, fenced('{"Q1": 3, "Q2": 4, "總分": 9}')))
    assert total(found) == 7
    assert disagreement(found) == "The grader's own total (總分) is 9, but the scores add up to 7."


def test_a_total_alone_is_the_total(record):
    assert total(grade(write(record, fenced('{"總分": 9, "評語": "好"}')))) == 9


def test_only_the_last_message_of_the_first_conversation_counts(record):
    assert total(grade(write(record, fenced('{"Q1": 100}'), fenced('{"Q1": 2}')))) == 2


def test_of_several_blocks_the_last_counts(record):
    assert total(grade(write(record, fenced('{"Q1": 100}') + fenced('{"Q1": 2}')))) == 2


def test_backticks_within_a_reason_end_no_block(record):
    assert total(grade(write(record, fenced('{"Q1": {"score": 2, "reason": "用了 ```json 區塊```"}}')))) == 2


def test_line_ends_and_marks_of_other_systems_are_read(record):
    write(record, fenced('{"Q1": 2}').replace("\n", "\r\n"))
    record.write_bytes(b"\xef\xbb\xbf" + record.read_bytes())
    assert total(grade(record)) == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff\xfe", r"is not UTF-8 \(byte 0\)"),
        (b"", "is not JSON"),
        (b"{'history': []}", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", r"has no history;"),
        (b"{}", r"has no history;"),
        (b'"history"', r"has no history;"),
        (b'{"history": []}', r"has no history\[0\];"),
        (b'{"history": {"messages": []}}', r"has no history\[0\];"),
        (b'{"history": [{}]}', r"has no history\[0\]\.messages;"),
        (b'{"history": ["messages"]}', r"has no history\[0\]\.messages;"),
        (b'{"history": [{"messages": []}]}', r"has no history\[0\]\.messages\[-1\];"),
        (b'{"history": [{"messages": [{"role": "user"}]}]}', r"has no history\[0\]\.messages\[-1\]\.content;"),
        (
            b'{"history": [{"messages": [{"content": null}]}]}',
            r"history\[0\]\.messages\[-1\]\.content in .* is not a text;",
        ),
    ],
)
def test_a_file_that_is_no_conversation_is_refused_by_what_it_lacks(record, content, problem):
    record.write_bytes(content)
    with pytest.raises(InputError, match=f"{problem}.*expected a grading conversation as it was downloaded"):
        grade(record)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("總分 9", "has no fenced json block"),
        ("```\n9\n```", "has no fenced json block"),
        ('```json\n{"Q1": 9}', "has no fenced json block"),
        (fenced('{"Q1": 9,}'), "the json block in .* is not JSON"),
        (fenced("[9]"), "is not an object"),
        (fenced("{}"), "has no number"),
        (fenced('{"Q1": "nine", "Q2": {"score": true}}'), "has no number"),
        (fenced('{"Q1": {"score": 3, "max": 5}}'), "Q1 in .* holds 2 numbers"),
        (fenced('{"part": {"Q1": {"score": 3}}}'), "has no number"),
    ],
)
def test_a_reply_without_scores_is_refused(record, reply, problem):
    with pytest.raises(InputError, match=f"{problem}.*[Hh]ave it graded again"):
        grade(write(record, reply))


def test_what_is_printed_ends_in_the_total(record, capsys, monkeypatch):
    write(record, fenced('{"Q1": {"score": 3, "reason": "[/b] 好 :star:"}, "Q2": 4.50, "total": 8}'))
    monkeypatch.setattr("sys.argv", ["grade", str(record)])
    main()
    printed = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    assert cells == [["Q1", "3", "[/b] 好 :star:"], ["Q2", "4.50", ""], ["total", "7.50", ""]]
    assert printed.endswith("The grader's own total (total) is 8, but the scores add up to 7.50.\n")


@pytest.mark.parametrize("there", [True, False])
def test_another_file_gives_one_sentence_and_status_1(run_module, there):
    name = "params.yaml" if there else "nowhere.json"
    done = run_module("stance grade", {"seed": 1}, name)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {name} {'is not JSON' if there else 'cannot be read (No such file'}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["a.json", "b.json"]])
def test_one_record_is_asked_for(monkeypatch, arguments):
    monkeypatch.setattr("sys.argv", ["grade", *arguments])
    with pytest.raises(InputError, match="name one record, for example"):
        main()


def test_a_number_in_quotes_counts(record):
    found = grade(write(record, fenced('{"Q1": "4", "Q2": {"score": "2.5", "reason": "10 words"}, "Q3": 3}')))
    assert total(found) == Decimal("9.5")
