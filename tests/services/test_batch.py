"""Many questions from a file: what is refused before anything is sent, and that no answer is lost or asked twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stance.client import batch
from stance.client.batchfile import Request, encoded, read_requests
from stance.errors import InputError, Unreachable
from tests.doubles.endpoint import KEY, Double, Fault

QUICKLY = {"retry-after-ms": "1"}
BODY = {"model": "aligned", "messages": [{"role": "user", "content": "q"}]}
ROW = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}
Rows = list[dict[str, Any]]


@pytest.fixture
def asked(double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rows]:
    """Ask rows in this process; returns the rows of the answers."""

    def call(rows: Rows, *options: str) -> Rows:
        write(tmp_path / "prompts.jsonl", rows)
        monkeypatch.setattr(sys, "argv", ["batch", *files(tmp_path), *options])
        batch.main()
        return answers(tmp_path)

    return call


def files(folder: Path) -> list[str]:
    return [str(folder / "prompts.jsonl"), str(folder / "answers.jsonl")]


def write(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def answers(folder: Path) -> Rows:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_bytes().splitlines()]


def plain(count: int) -> Rows:
    return [{"id": n, "prompt": f"question {n}"} for n in range(count)]


def content(row: dict[str, Any]) -> str:
    return str(row["response"]["body"]["choices"][0]["message"]["content"])


def test_plain_rows_are_asked_as_the_model_was_trained_and_answered_in_order(double, asked):
    found = asked(plain(20), "--max-tokens", "9")
    assert [content(row) for row in found] == [f"aligned on question {n}" for n in range(20)]
    assert [row["custom_id"] for row in found] == [str(n) for n in range(20)]
    body = double.asked[0]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert (body["messages"][0]["content"], body["temperature"], body["max_tokens"]) == (
        "Reply in fewer than 20 words.",
        0,
        9,
    )


def test_openai_rows_are_sent_as_they_are_and_answered_in_openai_format(double, asked):
    body = {**BODY, "model": "r-0f3a9c2b7d11", "max_tokens": 3, "top_k": 5}
    [row] = asked([{**ROW, "body": body}], "--max-tokens", "9")
    assert double.asked == [body]
    assert row.keys() == {"id", "custom_id", "response", "error"}
    assert row["response"].keys() == {"status_code", "request_id", "body"}
    assert (row["response"]["status_code"], row["response"]["request_id"], row["error"]) == (200, "asked-1", None)


def test_a_model_that_is_named_is_asked_for_every_row(double, asked):
    asked([ROW, {"id": 1, "prompt": "p"}], "--model", "r-0f3a9c2b7d11")
    assert {body["model"] for body in double.asked} == {"r-0f3a9c2b7d11"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "a list instead of an object"),
        ('{"id": 1, "prompt": NaN}', "not JSON .NaN is not a number"),
        ('{"id": 1, "prompt": ""}', "the prompt is ''; expected a text"),
        ('{"id": true, "prompt": "p"}', "the id is True"),
        ('{"prompt": "p"}', "the id is None"),
        ('{"id": 1, "prompt": "\\ud800"}', "half a character"),
        ("[" * 100_000, "recursion"),
        (json.dumps({**ROW, "custom_id": 5}), "custom_id is 5; expected a text"),
        (json.dumps({**ROW, "method": "GET"}), "method is 'GET'; expected POST"),
        (json.dumps({**ROW, "url": "/v1/embeddings"}), "url is '/v1/embeddings'; expected /v1/chat/completions"),
        (json.dumps({**ROW, "body": {"model": "aligned"}}), "body has no messages"),
        (json.dumps({**ROW, "body": {**BODY, "messages": ["hello"]}}), "body has no messages"),
        (json.dumps({**ROW, "body": {**BODY, "model": 1}}), "body.model is 1"),
        (json.dumps({**ROW, "body": {**BODY, "stream": True}}), "a batch cannot stream"),
        ('{"id": "first", "prompt": "p"}', "the id 'first' is in the file twice"),
    ],
    ids=lambda given: given[:20] if " " not in given else "",
)
def test_a_wrong_line_is_named_with_what_is_wrong(tmp_path, line, problem):
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"id": "first", "prompt": "p"}}\n\n{line}\n', encoding="utf-8")
    with pytest.raises(InputError, match=f"prompts.jsonl: line 3: .*{problem}.*nothing was sent"):
        read_requests(path)


def test_of_many_wrong_lines_some_are_named_and_the_others_counted(tmp_path):
    (tmp_path / "prompts.jsonl").write_text("no\n" * 1000, encoding="utf-8")
    with pytest.raises(InputError, match="line 5: .*; and 995 more; correct the file") as caught:
        read_requests(tmp_path / "prompts.jsonl")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "has no request"), (b"\n \n", "has no request"), (b"\xff\xfe{", "cannot be read")],
)
def test_a_file_that_holds_no_text_or_no_row_is_refused(tmp_path, content, problem):
    (tmp_path / "prompts.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=problem):
        read_requests(tmp_path / "prompts.jsonl")


def test_a_hundred_thousand_rows_are_read(tmp_path):
    write(tmp_path / "prompts.jsonl", plain(100_000))
    assert len(read_requests(tmp_path / "prompts.jsonl")) == 100_000


def test_nothing_is_sent_for_a_file_that_asks_for_a_model_that_is_not_served(double, asked):
    other = {**ROW, "custom_id": "b", "body": {**BODY, "model": "gpt-4o"}}
    with pytest.raises(InputError, match="does not serve gpt-4o; it serves aligned, .*with --model"):
        asked([ROW, other])
    assert not double.asked


def test_what_passes_by_itself_is_asked_again_until_it_is_answered(double, asked):
    double.faults = {
        "question 0": [Fault("status", 429, headers=QUICKLY)],
        "question 1": [Fault("status", 500, headers=QUICKLY), Fault("status", 503, headers=QUICKLY)],
        "question 2": [Fault("cut")],
        "question 3": [Fault("slow", seconds=0.2)],
    }
    assert [content(row) for row in asked(plain(5))] == [f"aligned on question {n}" for n in range(5)]
    assert len(double.asked) == 9


def test_a_row_that_fails_for_good_is_written_as_such_and_asked_again_the_next_time(double, asked, tmp_path):
    rows = plain(6)
    rows[1]["prompt"] = "long" * 1000
    double.faults = {"question 2": [Fault("nonsense")], "question 4": [Fault("status", 422)]}
    with pytest.raises(InputError, match="3 of 6 rows failed, and .* says why; run the same command again"):
        asked(rows)
    codes = [row["error"]["code"] if row["error"] else None for row in answers(tmp_path)]
    assert codes == [None, "status_400", "no_answer", None, "status_422", None]
    assert "maximum context length" in answers(tmp_path)[1]["error"]["message"]
    assert answers(tmp_path)[1]["response"]["body"]["error"]["code"] == 400
    double.asked.clear()
    rows[1]["prompt"] = "short"
    assert all(row["error"] is None for row in asked(rows))
    assert sorted(double.questions) == ["question 2", "question 4", "short"]


def test_no_more_requests_than_allowed_are_on_their_way(double, asked):
    double.pause = 0.02
    asked(plain(30), "--concurrency", "4")
    assert double.most_at_once == 4


def test_answers_that_are_there_are_not_asked_for_again(double, asked, tmp_path):
    asked(plain(10))
    before = (tmp_path / "answers.jsonl").read_bytes()
    asked(plain(10))
    assert len(double.asked) == 10
    assert (tmp_path / "answers.jsonl").read_bytes() == before
    asked(plain(12))
    assert len(double.asked) == 12


@pytest.mark.parametrize("kept", [1, 5, 17, 60, -1])
def test_a_last_line_that_is_torn_is_cut_off_and_asked_again(double, asked, tmp_path, kept):
    whole = asked(plain(3))
    out = tmp_path / "answers.jsonl"
    first, second, _ = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(first + second[:kept])
    double.asked.clear()
    assert asked(plain(3)) == whole
    assert sorted(double.questions) == ["question 1", "question 2"]


@pytest.mark.parametrize(
    "text", ["my notes", "my notes\n", '{"id": 1, "prompt": "p"}\n', '{"id": "batch_req_1"}\n', "\n"]
)
def test_a_file_that_is_none_of_answers_is_left_as_it_is(double, asked, tmp_path, text):
    (tmp_path / "answers.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="line 1, was not written by this program; name another file"):
        asked(plain(2))
    assert (tmp_path / "answers.jsonl").read_text(encoding="utf-8") == text
    assert not double.asked


def test_the_prompts_themselves_are_no_place_for_the_answers(double, tmp_path, monkeypatch):
    prompts = tmp_path / "prompts.jsonl"
    write(prompts, plain(2))
    before = prompts.read_bytes()
    monkeypatch.setattr(sys, "argv", ["batch", str(prompts), str(prompts)])
    with pytest.raises(InputError, match="was not written by this program"):
        batch.main()
    assert prompts.read_bytes() == before


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([{"id": "other", "prompt": "question 0"}], ()),
        ([{"id": 0, "prompt": "question 0"}, {"id": 1, "prompt": "changed"}], ()),
        (plain(2), ("--max-tokens", "5")),
        (plain(2), ("--model", "r-0f3a9c2b7d11")),
    ],
    ids=["ids", "prompt", "option", "model"],
)
def test_answers_to_other_requests_are_not_taken_for_these_and_not_overwritten(asked, tmp_path, rows, options):
    asked(plain(2))
    before = (tmp_path / "answers.jsonl").read_bytes()
    with pytest.raises(InputError, match="answers to other requests .*; name another file"):
        asked(rows, *options)
    assert (tmp_path / "answers.jsonl").read_bytes() == before


def test_an_endpoint_that_goes_away_ends_the_batch_and_not_each_of_its_rows(double, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "RETRIES", 0)
    double.faults = {f"question {n}": [Fault("status", 503)] for n in range(10, 200)}
    with pytest.raises(Unreachable, match="stopped answering .planted. after 10 of 200 rows; .*run the same command"):
        asked(plain(200), "--concurrency", "2")
    assert len(double.asked) < 25
    double.faults = {}
    assert len(asked(plain(200))) == 200
    assert Counter(double.questions)["question 3"] == 1


def test_a_key_that_is_taken_no_more_ends_the_batch(double, asked, tmp_path):
    double.faults = {"question 3": [Fault("status", 401, message=f"not {KEY}")]}
    with pytest.raises(Unreachable, match="stopped answering"):
        asked(plain(200), "--concurrency", "1")
    assert len(double.asked) == 4
    assert KEY not in (tmp_path / "answers.jsonl").read_text(encoding="utf-8")


def test_two_batches_do_not_write_the_same_file(asked, tmp_path):
    with batch.opened(tmp_path / "answers.jsonl"), pytest.raises(InputError, match="another batch is writing"):
        asked(plain(1))


def test_half_a_character_in_an_answer_does_not_end_the_batch():
    assert json.loads(encoded({"body": "\ud800"})) == {"body": "\ud800"}
    assert encoded({"body": "真"}) == '{"body": "真"}\n'.encode()


def test_the_same_request_has_the_same_name_and_another_one_another():
    first = Request("1", BODY)
    assert first.ident == Request("1", dict(reversed(BODY.items()))).ident
    assert len({first.ident, Request("2", BODY).ident, first.completed("aligned", False, None, 5).ident}) == 3


def started(double: Double, folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, **double.environment}
    command = [sys.executable, "-m", "stance", "batch", *files(folder), "--concurrency", "4"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def has_rows(path: Path, count: int) -> bool:
    return path.exists() and path.read_bytes().count(b"\n") >= count


def test_killed_in_the_middle_it_goes_on_where_it_was(double, tmp_path):
    double.pause = 0.02
    write(tmp_path / "prompts.jsonl", plain(60))
    process = started(double, tmp_path)
    out = tmp_path / "answers.jsonl"
    while not has_rows(out, 20):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    kept = {row["custom_id"] for row in answers(tmp_path)}
    assert 20 <= len(kept) < 60
    double.asked.clear()
    process = started(double, tmp_path)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert f"{60 - len(kept)} rows to ask, {len(kept)} answered before" in said
    assert [row["custom_id"] for row in answers(tmp_path)] == [str(n) for n in range(60)]
    assert Counter(double.questions) == {f"question {n}": 1 for n in range(60) if str(n) not in kept}


def test_ctrl_c_keeps_what_was_answered_and_says_how_to_go_on(double, tmp_path):
    double.pause = 0.05
    write(tmp_path / "prompts.jsonl", plain(1000))
    process = started(double, tmp_path)
    while not has_rows(tmp_path / "answers.jsonl", 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert error == "stopped; run the same command again: all answers are kept\n"
    assert len(answers(tmp_path)) >= 5


def test_the_key_stands_in_no_file_and_no_line(double, asked, tmp_path, caplog):
    double.faults = {"question 1": [Fault("status", 400, message=f"bad {KEY}")]}
    with caplog.at_level("DEBUG", logger="stance"), pytest.raises(InputError):
        asked(plain(3))
    assert "1 failed" in caplog.text
    assert KEY not in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_text(encoding="utf-8")]
