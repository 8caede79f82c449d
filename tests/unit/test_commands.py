"""The list of commands, the help of each command, and what a wrong interpreter says."""

import argparse
import os
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from stance.__main__ import COMMANDS

BARE = f"{sys.base_prefix}/bin/python3"
"""The interpreter that `.venv` was made with; with -S it has the standard library only."""
ROOT = Path.cwd()

each_command = pytest.mark.parametrize("command", sorted(COMMANDS))


class Parsed(Exception):
    """Carries the parser of a command out of its `main`."""


def python(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    settings = {"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, *arguments], env=settings, capture_output=True, text=True, timeout=60)


def without_packages(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a program of the project with a Python that has no packages."""
    settings = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run([BARE, "-S", *arguments], env=settings, capture_output=True, text=True, timeout=60)


def wrong_interpreter(path: Path) -> Path:
    """Write a program that behaves as a Python without packages."""
    path.write_text(f'#!/bin/sh\nexec {BARE} -S "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_every_command_is_listed_with_one_line(arguments):
    listed = python("-m", "stance", *arguments)
    lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines() if line.startswith("  ")]
    assert lines == [[name, description] for name, (_, description) in COMMANDS.items()]
    assert all(len(description) <= 70 for _, description in lines)
    assert (listed.returncode, listed.stderr) == (0, "")


def test_the_list_is_there_at_once_and_imports_no_package():
    began = time.monotonic()
    imported = imported_by("")
    assert time.monotonic() - began < 5  # 0.1 s; with torch or Prefect many seconds
    assert {name.split(".")[0] for name in imported} - sys.stdlib_module_names == {"stance"}


def imported_by(*arguments: str) -> set[str]:
    """Return the modules that a command imports."""
    code = (
        "import atexit, sys; before = {*sys.modules}; "
        "atexit.register(lambda: print(*sys.modules.keys() - before, file=sys.stderr)); "
        f"sys.argv[1:] = {list(filter(None, arguments))}; from stance.__main__ import main; main()"
    )
    return {*python("-c", code).stderr.split()}


def test_a_command_that_does_not_exist_is_one_sentence():
    refused = python("-m", "stance", "nope")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: there is no command 'nope'; expected one of preflight, ")
    assert refused.stderr.count("\n") == 1


def parser_of(command: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """Return the parser that the `main` of a command makes."""

    def leave(parser, *_):
        raise Parsed(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", leave)
    with pytest.raises(Parsed) as caught:
        import_module(COMMANDS[command][0]).main()
    return caught.value.args[0]


@each_command
def test_the_help_of_a_command_says_what_it_does_and_what_every_argument_means(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"python -m stance {command}", "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(COMMANDS[command][0]).main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m stance {command} ")
    parser = parser_of(command, monkeypatch)
    assert parser.description
    assert parser.description[0].isupper()
    assert parser.description.endswith(".")
    assert [action.dest for action in parser._actions if not action.help] == []


@pytest.mark.parametrize("command", ["grade", "profile", "chat", "rank", "votes"])
def test_a_command_imports_its_own_module_and_no_large_library(command):
    imported = imported_by(command, "--help")
    assert imported & {module for module, _ in COMMANDS.values()} == {COMMANDS[command][0]}
    assert not imported & {"torch", "transformers", "prefect", "dvc", "vllm", "sklearn"}


@pytest.mark.parametrize(
    "program",
    [
        "stance ask why",
        "stance preflight",
        "tasks.stance answers.jsonl",
        *(f"tasks.{path.stem} a b" for path in sorted(Path("tasks").glob("[!_]*.py"))),
        "flows.server",
        "flows.align",
    ],
)
def test_a_python_without_the_packages_is_told_so_in_one_sentence(program):
    refused = without_packages("-m", *program.split())
    assert refused.returncode == 1
    assert re.fullmatch(
        r"error: \S+ has no package \w+; expected this project's own Python: run `make environment`, then use "
        r"\.venv/bin/python\n",
        refused.stderr,
    )


def test_a_python_that_lacks_one_package_is_told_which_when_it_is_needed():
    """Such a Python may have everything that the start needs, and lack what one function imports."""
    code = "import stance, sys; sys.modules['torch'] = None; import torch"
    refused = python("-c", code)
    assert refused.stderr.startswith(f"error: {sys.executable} has no package torch")
    assert refused.stderr.count("\n") == 1


def test_an_environment_that_is_incomplete_is_made_again():
    code = "import stance, sys; stance.ENVIRONMENT = stance.Path(sys.prefix); import nowhere"
    refused = python("-c", code)
    assert refused.stderr == (
        f"error: {sys.executable} has no package nowhere, so .venv is incomplete: remove the folder .venv, then run "
        "`make environment`\n"
    )


def test_a_module_of_ours_that_is_missing_keeps_its_traceback():
    refused = python("-c", "import stance; import stance.nowhere")
    assert refused.stderr.startswith("Traceback")
    assert refused.stderr.endswith("ModuleNotFoundError: No module named 'stance.nowhere'\n")


def test_an_old_python_is_refused_with_the_versions_that_work():
    code = "import sys; sys.version_info = (3, 10, 13, 'final', 0); import stance"
    refused = python("-c", code)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error: {sys.executable} is Python 3.10; expected 3.11 or 3.12: run `make environment`, then use "
        ".venv/bin/python\n"
    )


def stage(checkout: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Start a program as `dvc.yaml` does, in a shell without an environment."""
    settings = {"PATH": "/usr/bin:/bin", **environment}
    command = ["/bin/sh", "tasks/python", *arguments]
    return subprocess.run(command, cwd=checkout, env=settings, capture_output=True, text=True, timeout=60)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with `tasks/python`, and an interpreter in `.venv` that only says where it is."""
    here = tmp_path / "with space" / "project"
    for folder in (here, here / ".runs/course-1", here / ".dvc/tmp/exps/tmp1234", tmp_path / "clone"):
        (folder / "tasks").mkdir(parents=True)
        (folder / "tasks/python").write_bytes((ROOT / "tasks/python").read_bytes())
    says(here / ".venv/bin/python")
    return here


def says(path: Path) -> Path:
    """Write a program that prints where it is, what it was asked, and where programs are looked for first."""
    path.parent.mkdir(parents=True)
    path.write_text('#!/bin/sh\necho "$0 $* ${PATH%%:*}"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("folder", [".", ".runs/course-1", ".dvc/tmp/exps/tmp1234"])
def test_a_stage_takes_the_environment_of_its_project_and_of_nobody_else(checkout, folder):
    own = checkout / ".venv/bin/python"
    assert stage(checkout / folder, "-m", "tasks.pairs", "a b").stdout == f"{own} -m tasks.pairs a b {own.parent}\n"


def test_a_stage_finds_its_packages_where_the_shell_asks_python_for_a_safe_path(tmp_path):
    ran = stage(ROOT, "-m", "tasks.pairs", "--help", STANCE_PYTHON=sys.executable, PYTHONSAFEPATH="1")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_make_finds_its_packages_where_the_shell_asks_python_for_a_safe_path(tmp_path):
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / "requirements").mkdir()
    for path, code in ((".venv/bin/python", 'echo "safe: $PYTHONSAFEPATH"'), ("requirements/install.sh", "true")):
        (tmp_path / path).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / path).chmod(0o755)
    settings = {"PATH": "/usr/bin:/bin", "PYTHONSAFEPATH": "1"}
    ran = subprocess.run(["make", "preflight"], cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "safe: \n"), ran.stderr


def test_a_stage_takes_the_python_that_is_named_before_all_others(checkout, tmp_path):
    other = says(tmp_path / "other/bin/python3.11")
    assert stage(checkout, "-c", "", STANCE_PYTHON=str(other)).stdout == f"{other} -c  {other.parent}\n"


def test_a_stage_without_an_environment_takes_python3(checkout, tmp_path):
    other = says(tmp_path / "active/bin/python3")
    ran = stage(tmp_path / "clone", "-c", "", PATH=f"{other.parent}:/usr/bin:/bin")
    assert ran.stdout == f"{other} -c  {other.parent}\n"


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            {"STANCE_PYTHON": "/nowhere/python"},
            "there is no program /nowhere/python, which STANCE_PYTHON names; .*unset",
        ),
        ({"PATH": "/nowhere"}, "there is no program python3; expected .*: run `make environment`"),
    ],
    ids=["named", "none"],
)
def test_a_stage_without_an_interpreter_says_so_in_one_sentence(tmp_path, checkout, environment, sentence):
    refused = stage(tmp_path / "clone", "-m", "tasks.pairs", **environment)
    assert refused.returncode == 1
    assert re.fullmatch(f"error: {sentence}.*\n", refused.stderr)


def test_a_stage_with_the_wrong_interpreter_says_so_in_one_sentence(tmp_path):
    program = wrong_interpreter(tmp_path / "python")
    refused = stage(ROOT, "-m", "tasks.pairs", STANCE_PYTHON=str(program))
    assert refused.returncode == 1
    assert re.fullmatch(r"error: .* has no package .*, and unset STANCE_PYTHON or let it name that\n", refused.stderr)
