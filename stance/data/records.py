"""Verdicts as data: the gates of a run, and the warnings of the linter.

`gates.json` holds a list of `Gate`, `lint.json` a list of `LintWarning`. Both hold no sentences but messages, which
`stance.language.messages.sentence` puts into words.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictBool, TypeAdapter

from stance.errors import InputError
from stance.language.messages import Message, sentence
from stance.machine.files import parse_record, read_output, write_json

GATES = Path("data/evaluation/gates.json")
DEGENERATE = ("empty", "cut_off", "repetitive", "wrong_script", "leaked")
"""Defects that make an answer no sentence any more."""
STYLE = ("too_long", "hedged", "no_stance")
"""Defects of style."""


class Gate(BaseModel):
    """The result of one check of a run: a figure, and the bound that it is compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """One of `stance.language.messages.GATES`."""
    passed: StrictBool
    figure: Message
    bound: Message
    advice: Message
    """What to do when the gate is missed."""
    warning: StrictBool = False
    """Does the gate only warn? Then a push, a server or a release takes the model even if the gate is missed."""

    @property
    def refuses(self) -> bool:
        """Is the gate missed, and does it refuse a release?"""
        return not self.passed and not self.warning

    @property
    def warns(self) -> bool:
        """Is the gate missed, and does it only warn?"""
        return not self.passed and self.warning


class LintWarning(BaseModel):
    """One warning of the linter about a data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str
    """One of `stance.language.messages.CHECKS`."""
    message: Message
    rows: list[int]
    """Ids of the questions, or of the test prompts where the message says so."""


GATE_LIST, WARNING_LIST = TypeAdapter(list[Gate]), TypeAdapter(list[LintWarning])
EARLIER = (
    "an earlier version of this project made the run: make it again with this one (`make repro`, or a new run), or "
    "release it from a checkout of its own commit"
)


def read_gates(path: Path) -> list[Gate]:
    """Return the gates in a `gates.json`.

    Raises:
        InputError: The file is missing, or an earlier version of this project wrote it.
    """
    return parse_gates(read_output(path), path)


def parse_gates(content: bytes, path: Path) -> list[Gate]:
    """Return the gates in the bytes of a `gates.json`; `path` names the file in an error."""
    return parse_record(GATE_LIST, content, path, EARLIER)


def write_gates(path: Path, gates: Iterable[Gate]) -> None:
    """Write gates to a `gates.json`."""
    write_json(path, [gate.model_dump() for gate in gates])


def read_warnings(path: Path) -> list[LintWarning]:
    """Return the warnings in a `lint.json`; raises as `read_gates` does."""
    return parse_record(WARNING_LIST, read_output(path), path, EARLIER)


def write_warnings(path: Path, warnings: Iterable[LintWarning]) -> None:
    """Write the linter's warnings to a `lint.json`."""
    write_json(path, [warning.model_dump() for warning in warnings])


def in_words(gate: Gate) -> dict[str, Any]:
    """Return a gate with its sentences, in the language that is spoken now: what a person or a client is shown."""
    return {
        "name": gate.name,
        "passed": gate.passed,
        "found": sentence(gate.figure),
        "expected": sentence(gate.bound),
        "advice": sentence(gate.advice),
    }


def require(gates: Iterable[Gate], refusal: str) -> None:
    """Refuse a model that misses a gate.

    Args:
        gates: The gates of the model.
        refusal: The first words of the error: what is not done, and what stays as it is.

    Raises:
        InputError: A gate that does not only warn is missed; names figure, bound and advice of each.
    """
    if missed := [in_words(gate) for gate in gates if gate.refuses]:
        reasons = ("{name}: found {found}, expected {expected}. {advice}".format(**gate) for gate in missed)
        raise InputError(f"{refusal}: {' '.join(reasons)}")
