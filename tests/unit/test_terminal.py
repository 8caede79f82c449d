"""What the terminal shows: texts as they are, whatever they hold and whatever the terminal can show."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_layout import MODULES

PRINTS = "from stance.errors import run; run(lambda: print('真人版 [/b]'))"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_table_takes_square_brackets_in_a_text_for_markup(path):
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Console":
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert (options.get("markup"), options.get("emoji")) == ("False", "False"), f"line {call.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_texts_are_read_and_written_in_utf_8_and_not_in_the_encoding_of_the_locale(path):
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        mode = next((ast.unparse(argument) for argument in call.args), "'r'")
        texts = name in ("read_text", "write_text") or options.get("text") == "True"
        texts |= name == "open" and isinstance(call.func, ast.Attribute) and "'" in mode and "b" not in mode
        assert not texts or "encoding" in options, f"line {call.lineno}"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_character_that_the_terminal_lacks_is_replaced(encoding):
    variables = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", PRINTS], env=variables, capture_output=True, cwd=Path.cwd())
    assert done.returncode == 0
    assert done.stdout.decode(encoding) == ("真人版 [/b]\n" if encoding == "utf-8" else "??? [/b]\n")
