"""The records that stages exchange: one type per file."""

from collections.abc import Iterable
from typing import NamedTuple

from stance.errors import InputError


class Gate(NamedTuple):
    """One verdict."""

    name: str
    passed: bool
    found: str
    """The figure, in words."""
    expected: str
    """The bound, in words."""
    advice: str
    """What to do when it is missed."""


def require(gates: Iterable[Gate], refusal: str) -> None:
    """Refuse a model that misses a gate.

    Args:
        gates: The verdicts on it.
        refusal: What is not done then, and what stays as it is.

    Raises:
        InputError: One is missed; names figure, bound and advice of each.
    """
    if missed := [gate for gate in gates if not gate.passed]:
        said = (f"{gate.name}: found {gate.found}, expected {gate.expected}. {gate.advice}" for gate in missed)
        raise InputError(f"{refusal}: {' '.join(said)}")
