"""README and docs as a reader's shell sees them: their blocks of commands, and the commands in their sentences."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

PAGES = [Path("README.md"), Path("README.zh-TW.md"), *sorted(Path("docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^ *<!-- (?P<mark>[^\n]*?) -->\n)?^ *```sh\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:make|\.venv/bin/\w+|python -m|requirements/\w+\.sh) [^`]+)`")


class Block(NamedTuple):
    """A block of commands, and the comment before it that says why a test cannot run it."""

    page: Path
    mark: str | None
    lines: list[str]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page that hold commands."""
    matches = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [
        Block(page, match["mark"], [*filter(None, map(str.strip, match["text"].splitlines()))]) for match in matches
    ]


def inline(page: Path) -> list[str]:
    """Return the commands in the sentences of a page."""
    return INLINE.findall(FENCED.sub("", page.read_text(encoding="utf-8")))


def words(line: str) -> list[list[str]]:
    """Return the commands of a line as words, without comments, redirections and settings of variables."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if word in (">", "<"):
            next(lexer)
        elif word in ("&&", "|", ";", "&"):
            commands.append([])
        elif commands[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            commands[-1].append(word)
    return [command for command in commands if command]
