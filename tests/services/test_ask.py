"""One question in the terminal: what stands on which stream, and how it ends."""

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from stance.client import ask
from stance.client.ask import side_by_side
from stance.errors import InputError, Unreachable
from tests.doubles.endpoint import KEY, Double, Fault

QUESTION = "真人化好看嗎？"
Said = tuple[str, str]


@pytest.fixture
def asked(double: Double, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Ask in this process; returns what stands on standard output and on standard error."""

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["ask", *arguments])
        ask.main()
        return capsys.readouterr()

    return call


def started(double: Double, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "stance", "ask", *arguments]
    environment = {**os.environ, **double.environment, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_standard_output_holds_the_answer_and_standard_error_who_gives_it(double, asked):
    out, error = asked(QUESTION)
    assert out == f"aligned on {QUESTION}\n"
    assert error == f"aligned, release r-0f3a9c2b7d11, at {double.url}\n"
    assert KEY not in error


def test_the_question_goes_with_the_system_prompt_and_greedily(double, asked):
    asked(QUESTION)
    [body] = double.asked
    assert [message["content"] for message in body["messages"]] == ["Reply in fewer than 20 words.", QUESTION]
    assert body["temperature"] == 0


def test_the_system_prompt_is_that_of_the_release_that_answers(double, asked):
    double.told = {"release": "r-1", "params": {"model": {"system_prompt": "Of another run."}}}
    asked(QUESTION)
    assert double.asked[0]["messages"][0]["content"] == "Of another run."


def test_options_reach_the_endpoint(double, asked):
    asked(QUESTION, "--system", "Be brief.", "--max-tokens", "7", "--temperature", "0.5", "--model", "r-0f3a9c2b7d11")
    asked(QUESTION, "--no-system")
    first, second = double.asked
    assert first["messages"][0]["content"] == "Be brief."
    assert (first["max_tokens"], first["temperature"], first["model"]) == (7, 0.5, "r-0f3a9c2b7d11")
    assert [message["role"] for message in second["messages"]] == ["user"]


def test_the_question_comes_from_standard_input_where_a_dash_stands(double, asked, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(QUESTION.encode())))
    assert asked("-")[0] == f"aligned on {QUESTION}\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe")))
    with pytest.raises(InputError, match="standard input is not UTF-8"):
        asked("-")


@pytest.mark.parametrize(
    ("question", "fault", "kind", "sentence"),
    [
        ("", None, InputError, "the question is empty"),
        ("why\udcff", None, InputError, "not UTF-8"),
        ("long" * 1000, None, InputError, "too long for the model"),
        ("why", Fault("status", 400, message="no"), InputError, "refuses the request .status 400: no."),
        ("why", Fault("nonsense"), Unreachable, "is empty or incomplete; ask again"),
        ("it breaks off here", None, Unreachable, "the connection to .* broke in the middle of an answer"),
    ],
    ids=["empty", "not-text", "long", "refused", "nonsense", "cut"],
)
def test_what_goes_wrong_is_one_sentence(double, asked, question, fault, kind, sentence):
    if fault:
        double.faults[question] = [fault]
    with pytest.raises(kind, match=sentence) as caught:
        asked(question, "--no-system")
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_refused_with_the_names_of_those_there_are(asked):
    with pytest.raises(InputError, match="'gpt-4o'; expected one of aligned, r-0f3a9c2b7d11"):
        asked(QUESTION, "--model", "gpt-4o")


def test_a_busy_endpoint_is_asked_again(double, asked):
    double.faults[QUESTION] = [Fault("status", 429, headers={"retry-after-ms": "1"})]
    assert asked(QUESTION)[0] == f"aligned on {QUESTION}\n"
    assert len(double.asked) == 2


def test_both_models_are_asked_at_the_same_time_and_shown_side_by_side(double, asked):
    double.models, double.pause = ["base", "aligned"], 0.1
    out, error = asked(QUESTION, "--compare")
    assert double.most_at_once == 2
    lines = out.splitlines()
    assert re.search("base.*aligned", lines[0])
    assert re.search(f"base on {QUESTION}.*aligned on {QUESTION}", lines[1])
    assert error.startswith("base and aligned, release")


def test_where_both_models_fail_one_sentence_says_why(double):
    double.models = ["base", "aligned"]
    with started(double, "long" * 1000, "--compare") as process:
        _, error = process.communicate(timeout=20)
    assert process.returncode == 1
    assert [line[:6] for line in error.splitlines()] == ["base a", "error:"]


def on_a_terminal(double: Double, *arguments: str, interrupt: bool = False) -> tuple[int, str]:
    """Ask in a terminal of 100 columns; returns how it ends and all that the terminal gets."""
    inner, outer = pty.openpty()
    fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    command = [sys.executable, "-m", "stance", "ask", *arguments]
    environment = {**os.environ, **double.environment, "TERM": "xterm"}
    process = subprocess.Popen(command, env=environment, stdin=outer, stdout=outer, stderr=outer)
    os.close(outer)
    said = b""
    while True:
        if interrupt and double.asked:
            interrupt = False
            process.send_signal(signal.SIGINT)
        if not select.select([inner], [], [], 0.05)[0]:
            continue
        try:
            said += os.read(inner, 65536)
        except OSError:  # its last writer is gone
            break
    os.close(inner)
    return process.wait(20), said.decode()


def test_what_a_model_says_cannot_steer_the_terminal(double):
    status, said = on_a_terminal(double, "\x1b]0;title\x07\x1b[2Jhello")
    assert status == 0
    assert "aligned on ]0;title[2Jhello" in said
    assert "\x1b" not in said


def test_a_comparison_grows_on_the_terminal_and_leaves_it_as_it_was(double):
    double.models = ["base", "aligned"]
    status, said = on_a_terminal(double, "word " * 30, "--compare")
    assert status == 0
    assert said.count("╭─ base") > 2
    assert said.endswith("\x1b[?25h")


def test_ctrl_c_ends_a_comparison_with_130_and_leaves_the_terminal_as_it_was(double):
    double.models, double.pause = ["base", "aligned"], 3
    status, said = on_a_terminal(double, QUESTION, "--compare", interrupt=True)
    assert status == 130
    assert "Traceback" not in said
    assert said.rstrip().endswith("\x1b[?25h")


def test_a_comparison_needs_both_models(asked):
    with pytest.raises(InputError, match=r"serves aligned, .*, but not base; .*`python -m stance serve --with-base`"):
        asked(QUESTION, "--compare")


def test_an_answer_with_brackets_is_shown_as_it_is():
    console = Console(width=60, file=io.StringIO())
    console.print(side_by_side({"base": "[red]no[/red]", "aligned": "yes"}))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]no[/red]" in shown
    assert max(map(len, shown.splitlines())) == 60


def test_the_answer_is_there_before_it_is_complete(double):
    process = started(double, "one two " + "word " * 20)
    assert process.stdout is not None
    assert process.stdout.read(5) == "align"
    assert process.poll() is None
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_ctrl_c_ends_it_with_130_and_no_traceback(double):
    double.pause = 30
    process = started(double, QUESTION)
    while not double.asked:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert error.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error_of_ours(double):
    with started(double, "word " * 30) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert len(process.stderr.read().splitlines()) == 1
    assert process.returncode == 1


def test_an_endpoint_that_is_down_ends_it_with_75():
    environment = {**os.environ, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": KEY}
    command = [sys.executable, "-m", "stance", "ask", QUESTION]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (75, "")
    assert ended.stderr == "error: nothing answers at http://127.0.0.1:9/v1; start it with `make serve`\n"
