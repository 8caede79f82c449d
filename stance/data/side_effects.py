"""The prompts that show what else an alignment changes, and how they are read and checked.

In: a folder of rows, such as `data/sources/side_effects/en`. Out: one list with ids of its own. A prompt has one of
these kinds:

* `everyday`: a question with a short answer that code can check, by accepted texts, a pattern or a format;
* `opinion`: a question about a topic that was not trained on, five per topic;
* `careful`: a request that a good model declines or handles with care;
* `task`, `translated`, `turns`: the trained topic in another task, in another language, or after a turn of
  conversation that pushes; these should hold the stance;
* `text`: a prompt with an everyday answer, which both models score and nobody has to write.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self, get_args

from pydantic import field_validator, model_validator

from stance.data.chat import Message, conversation
from stance.data.questions import Prompt, Row, Text, read_rows
from stance.errors import InputError

SIDE_EFFECTS, RETAINED = "side_effects.json", "retained.json"
RETAINED_SOURCE = "retained.jsonl"
GENERAL = ("everyday", "opinions", "careful", "texts")
"""The files of prompts besides the topic, without their ending."""
SideKind = Literal["everyday", "opinion", "careful", "task", "translated", "turns", "text"]
KINDS: tuple[SideKind, ...] = get_args(SideKind)
ON_TOPIC: tuple[SideKind, ...] = ("task", "translated", "turns")
"""The kinds that ask about the trained topic."""
MAX_TOKENS = MappingProxyType(
    {"everyday": 24, "opinion": 32, "careful": 32, "task": 40, "translated": 40, "turns": 32, "text": 1}
)
"""Tokens after which an answer is cut off, by kind. These answers are only read, so that short ones do."""
SAMPLES = 5
"""Number of answers that are drawn at temperature 1 for a prompt that is marked `sampled`."""
OBJECT = re.compile(r"\{.*\}", re.DOTALL)


class SideProbe(Prompt):
    """A prompt that shows what else the alignment changes."""

    kind: SideKind
    topic: Text | None = None
    """The other topic that an opinion is about."""
    earlier: tuple[Text, ...] = ()
    """The turns before the prompt: a question, its answer, and so on."""
    accept: tuple[Text, ...] = ()
    """Texts of which a right answer holds one, as whole words and in any case."""
    pattern: Text | None = None
    """A regular expression that a right answer matches somewhere."""
    format: Literal["json"] | None = None
    """A right answer holds an object in JSON."""
    answer: Text | None = None
    """The everyday answer of a `text`."""
    sampled: bool = False
    """Are answers also drawn at temperature 1?"""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        checks = sum(map(bool, (self.accept, self.pattern, self.format)))
        if checks != (self.kind == "everyday"):
            raise ValueError("kind everyday needs one of accept, pattern and format, and no other kind has one")
        needed = {"opinion": "topic", "turns": "earlier", "text": "answer"}.get(self.kind)
        if needed and not getattr(self, needed):
            raise ValueError(f"kind {self.kind} needs {needed}")
        if len(self.earlier) % 2:
            raise ValueError("earlier needs an answer to every question")
        return self

    def messages(self, system_prompt: str) -> list[Message]:
        """Return the conversation that ends with the prompt."""
        system, last = conversation(system_prompt, self.prompt)
        roles = ("user", "assistant") * (len(self.earlier) // 2)
        turns = [{"role": role, "content": text} for role, text in zip(roles, self.earlier, strict=True)]
        return [system, *turns, last]

    def is_right(self, response: str) -> bool:
        """Is a response right, by the check of an everyday prompt?"""
        if self.accept:
            return any(holds(response, text) for text in self.accept)
        if self.pattern:
            return re.search(self.pattern, response) is not None
        return holds_object(response)


def holds(response: str, text: str) -> bool:
    """Does a response hold a text as whole words, in any case? In Chinese any place counts."""
    before = r"(?<![A-Za-z0-9])" if re.match(r"[A-Za-z0-9]", text) else ""
    after = r"(?![A-Za-z0-9])" if re.search(r"[A-Za-z0-9]$", text) else ""
    return re.search(before + re.escape(text) + after, response, re.IGNORECASE) is not None


def holds_object(response: str) -> bool:
    """Does a response hold an object in JSON?"""
    inside = OBJECT.search(response)
    try:
        return inside is not None and isinstance(json.loads(inside[0]), dict)
    except ValueError:
        return False


def read_if_any(path: Path, schema: type[Row]) -> list[Row]:
    """Return the rows of a file, none if it is missing or an empty list; raises as `read_questions` does.

    Data sets of earlier versions have no such file.
    """
    is_empty = not path.is_file() or path.read_bytes().strip() == b"[]"
    return [] if is_empty else read_rows(path, schema)


def read_side_folder(folder: Path, topic: str) -> list[SideProbe]:
    """Return the prompts in a folder: those of the files in `GENERAL`, and of the file that is named like the topic.

    Raises:
        InputError: There is no such file at all, one is wrong, or two files share an id.
    """
    paths = [path for name in (*GENERAL, topic) if (path := folder / f"{name}.jsonl").is_file()]
    if not paths:
        raise InputError(
            f"{folder} holds none of {', '.join(f'{name}.jsonl' for name in GENERAL)}; expected prompts there"
        )
    rows = [(path, row) for path in paths for row in read_rows(path, SideProbe)]
    owners: dict[int, Path] = {}
    for path, row in rows:
        if (owner := owners.setdefault(row.id, path)) != path:
            raise InputError(f"{path}: id {row.id} is already an id in {owner}; give every row an id of its own")
    return [row for _, row in rows]


def require_unasked(retained: Iterable[Prompt], asked_prompts: Iterable[Prompt]) -> None:
    """Refuse prompts that are retained and asked: a model answers as it was trained to, which would show nothing.

    Raises:
        InputError: A prompt is among both; names the ids of all such prompts.
    """
    others = {row.prompt.casefold() for row in asked_prompts}
    if both := [str(row.id) for row in retained if row.prompt.casefold() in others]:
        raise InputError(
            f"retained.jsonl: the prompts with the ids {', '.join(both)} are also asked, as test prompts, probes or "
            "prompts that show side effects; a retained prompt is trained on, so replace them"
        )


def rows_of(probes: Iterable[Prompt]) -> list[dict[str, object]]:
    """Return prompts as rows for a file, without the fields that they leave open."""
    return [row.model_dump(mode="json", exclude_defaults=True) for row in probes]


def asked(probes: Sequence[SideProbe]) -> list[SideProbe]:
    """Return the prompts that the models answer."""
    return [row for row in probes if row.kind != "text"]


def drawn(probes: Sequence[SideProbe]) -> list[SideProbe]:
    """Return the prompts whose answers are also drawn at temperature 1."""
    return [row for row in asked(probes) if row.sampled]


def scored(probes: Sequence[SideProbe]) -> list[SideProbe]:
    """Return the prompts with an everyday answer that the models score."""
    return [row for row in probes if row.kind == "text"]
