"""What the terminal shows: texts as they are, whatever they hold and whatever the terminal can show."""

import ast
import gc
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from stance.errors import InputError, run
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


@pytest.mark.parametrize("ends", [None, InputError("wrong"), RuntimeError("broken")])
def test_a_program_leaves_nothing_that_the_end_of_python_does_not_free(ends):
    """Modules are frozen while a stage works. What is frozen at the end is reported by triton's bindings as leaked."""
    frozen = []

    def stage():
        frozen.append(gc.get_freeze_count())
        if ends:
            raise ends

    with pytest.raises((SystemExit, RuntimeError)) if ends else nullcontext():
        run(stage)
    assert frozen[0] > 0
    assert gc.get_freeze_count() == 0


def test_the_advice_of_bitsandbytes_is_silenced_before_it_is_imported():
    code = "import logging, stance; print(logging.getLogger('bitsandbytes.backends.cpu.ops').level >= logging.ERROR)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, encoding="utf-8") == "True\n"
