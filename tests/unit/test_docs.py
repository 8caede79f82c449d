"""README and docs name only what exists: targets of make, commands, modules, options and files."""

import argparse
import re
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from docs import parameters
from stance.__main__ import COMMANDS
from tests.builders.manual import PAGES, blocks, inline, words

MAKEFILE = Path("Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"\$\(([A-Z_]+)\)|^export ([A-Z]+)", MAKEFILE, re.MULTILINE))
SETTINGS = {name for pair in VARIABLES for name in pair if name} | {"PYTHON"}
MARKS = {
    "takes minutes",
    "serves",
    "needs a file",
    "needs a run",
    "needs a server",
    "needs an endpoint",
    "needs another machine",
    "needs a shared folder",
    "needs a network",
    "needs a GPU",
    "needs the example stage",
}
"""Why a block is not typed by `tests/services/test_readme.py`."""
SYSTEM = {"cat", "chmod", "cp", "curl", "docker", "export", "git", "printf", "rm", "ssh"}
"""Programs that belong to the machine of the reader."""
EXAMPLES = {"NAME", "COMMAND", "STAGE", "tasks.count", "tasks.STAGE", "flows.NAME"}
"""Placeholders, and the stage that docs/contributing.md adds."""


def joined(lines: list[str]) -> list[str]:
    """Return the lines of a block; a command with a quoted text over several lines is one line."""
    text = "\n".join(lines)
    return [text] if text.count("'") % 2 == 0 and any(line.count("'") % 2 for line in lines) else lines


NAMED_AS_EXAMPLES = {
    "profiles/four_day_week.yaml",
    "tasks/count.py",
    "tests/unit/tasks/test_count.py",
    "tests/unit/PACKAGE/",
}


TYPED = [
    (page, command)
    for page in PAGES
    for block in blocks(page)
    for line in joined(block.lines)
    for command in words(line)
]
TOLD = [(page, command) for page in PAGES for text in inline(page) for command in words(text)]


@cache
def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command of `python -m stance`."""

    class Parsed(Exception):
        pass

    def leave(parser, *_):
        raise Parsed(parser)

    main = import_module(COMMANDS[command][0]).main
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", leave)
        with pytest.raises(Parsed) as caught:
            main()
    return caught.value.args[0]


def unknown(command: list[str]) -> list[str]:
    """Return the words of a command that name nothing in this project."""
    program, *arguments = command
    if program == "make":
        return [word for word in arguments if word not in TARGETS and word.partition("=")[0] not in SETTINGS]
    if program in (".venv/bin/python", "python") and arguments[:2] == ["-m", "stance"]:
        return unknown_to_stance(arguments[2:])
    if program in (".venv/bin/python", "python") and arguments[:1] == ["-m"]:
        return unknown_to_module(*arguments[1:])
    if program.startswith(".venv/bin/"):
        missing = [program] if not Path(sys.prefix, "bin", Path(program).name).exists() else []
        return missing + [word for word in arguments if word.startswith("tests/") and not Path(word).exists()]
    if "/" in program:
        source = Path(program).read_text(encoding="utf-8") if Path(program).is_file() else ""
        return [] if source else [program]
    return [] if program in SYSTEM else [program]


def unknown_to_stance(arguments: list[str]) -> list[str]:
    if not arguments or arguments[0] in EXAMPLES or arguments == ["--help"]:
        return []
    name, *rest = arguments
    if name not in COMMANDS:
        return [name]
    parser = parser_of(name)
    options = {option for action in parser._actions for option in action.option_strings}
    positional = [action for action in parser._actions if not action.option_strings]
    missing = [word for word in rest if word.startswith("--") and word not in options]
    if rest and not rest[0].startswith("--") and positional and positional[0].choices:
        missing += [] if rest[0] in positional[0].choices else [rest[0]]
    return missing + ([rest[0]] if rest and not positional and not rest[0].startswith("--") else [])


def unknown_to_module(name: str, *arguments: str) -> list[str]:
    if name in EXAMPLES:
        return []
    path = Path(*name.split(".")).with_suffix(".py")
    if not path.is_file():
        return [name]
    source = path.read_text(encoding="utf-8")
    return [word for word in arguments if word.startswith("--") and f'"{word}"' not in source]


def test_every_command_in_a_block_names_what_exists():
    assert [(str(page), *command, unknown(command)) for page, command in TYPED if unknown(command)] == []


def test_every_command_in_a_sentence_names_what_exists():
    assert [(str(page), *command, unknown(command)) for page, command in TOLD if unknown(command)] == []


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("make repo REQUIREMENTS=gpu", ["repo"]),
        ("make serve PROT=1", ["PROT=1"]),
        (".venv/bin/python -m stance grad", ["grad"]),
        (".venv/bin/python -m stance serve swop --run NAME", ["swop"]),
        (".venv/bin/python -m stance push --runs NAME", ["--runs"]),
        (".venv/bin/python -m flows.publish", ["flows.publish"]),
        (".venv/bin/python -m flows.release --name NAME", ["--name"]),
        (".venv/bin/dcv repro", [".venv/bin/dcv"]),
        (".venv/bin/pytest tests/unit/nowhere", ["tests/unit/nowhere"]),
        ("requirements/solve.sh", ["requirements/solve.sh"]),
        ("dvc repro", ["dvc"]),
    ],
)
def test_a_command_that_does_not_exist_is_found(line, names):
    [command] = words(line)
    assert unknown(command) == names


def test_a_line_is_read_as_a_shell_reads_it():
    assert words("A=b make ui PORT=1  # the page") == [["make", "ui", "PORT=1"]]
    assert words("cp a b && chmod 600 b | cat > c") == [["cp", "a", "b"], ["chmod", "600", "b"], ["cat"]]


def test_every_mark_of_a_block_is_one_of_a_few_reasons():
    marks = {block.mark for page in PAGES for block in blocks(page)} - {None}
    assert marks == MARKS


def test_both_readmes_have_the_same_blocks():
    english, chinese = (
        [(block.mark, [words(line) for line in block.lines]) for block in blocks(Path(name))]
        for name in ("README.md", "README.zh-TW.md")
    )
    assert english == chinese


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_and_picture_of_a_page_is_there(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_file_of_ours_that_a_page_names_is_there(page):
    folders = "stance|tasks|flows|tests|deploy|profiles|grids|requirements|benchmarks|docs"
    paths = re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text(encoding="utf-8"))
    assert [path for path in paths if not Path(path).exists() and path not in NAMED_AS_EXAMPLES] == []


def test_the_readmes_are_short():
    assert all(
        len(Path(name).read_text(encoding="utf-8").splitlines()) <= 200 for name in ("README.md", "README.zh-TW.md")
    )


@pytest.mark.parametrize("path", sorted(Path("docs/pictures").glob("*.png")), ids=str)
def test_a_picture_is_small(path):
    assert path.stat().st_size < 150_000


def test_the_readme_names_every_page_and_every_package():
    readme = Path("README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"(docs/{page.name})" not in readme] == []
    packages = [path.parent.name for path in Path("stance").glob("*/__init__.py")]
    assert [name for name in packages if not re.search(rf"^  ([\w.]+/?, )?{name}/[ ,]", readme, re.MULTILINE)] == []


def test_the_page_of_the_parameters_is_that_of_the_code():
    assert parameters.PAGE.read_text(encoding="utf-8") == parameters.page(), "run `python -m docs.parameters`"


def test_every_parameter_has_a_meaning_and_a_value():
    rows = [line.split(" | ") for line in parameters.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row[0] for row in rows if len(row[1].strip()) < 4 or len(row[3].strip(" |")) < 10] == []
