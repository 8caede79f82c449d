"""How much work a JSON schema or a regular expression makes for the compiler of structured answers.

All functions count more than the compiler does rather than less. They walk without recursion, so that no depth of a
request can stop them.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

# fmt: off
COUNTS = frozenset([
    "minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains",
    "maxContains",
])
# fmt: on
"""The counts of JSON schema."""
LARGEST = 2**53
"""The largest number that a schema may hold; larger ones are not exact in JSON."""
BRACES = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")
ENDLESS = float("inf")


def nested(value: object) -> Iterator[object]:
    """Yield a value and all values within it."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        yield value
        waiting.extend(inner(value))


def inner(value: object) -> list[object]:
    """Return the values directly within a value."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def depth(value: object) -> int:
    """Return the number of lists and objects within one another."""
    levels, layer = 0, [value]
    while layer := [part for part in layer if isinstance(part, dict | list)]:
        levels += 1
        layer = [part for outer in layer for part in inner(outer)]
    return levels


def most_repeats(value: object) -> float:
    """Return the largest count in schemas; `maxProperties` counts once for every property, as it is compiled."""
    most = 0.0
    for part in nested(value):
        if isinstance(part, dict):
            most = max(most, *(repeats_of(part, name) for name in part), 0.0)
        elif isinstance(part, int | float) and not (abs(part) <= LARGEST):
            most = ENDLESS
    return most


def repeats_of(schema: dict[str, Any], name: str) -> float:
    """Return the count that a keyword of a schema asks for; 0 if the keyword is no count."""
    count = schema[name]
    if name not in COUNTS or not isinstance(count, int | float) or math.isnan(count):
        return 0.0
    known = schema.get("properties")
    return count * (1 + len(known) if name.endswith("Properties") and isinstance(known, dict) else 1)


def properties(value: object) -> int:
    """Return the number of properties in all schemas within a value."""
    found = [part.get("properties") for part in nested(value) if isinstance(part, dict)]
    return sum(len(part) for part in found if isinstance(part, dict))


def patterns(value: object) -> list[str]:
    """Return the regular expressions in all schemas within a value."""
    schemas = [part for part in nested(value) if isinstance(part, dict)]
    texts = [part["pattern"] for part in schemas if isinstance(part.get("pattern"), str)]
    named = [part["patternProperties"] for part in schemas if isinstance(part.get("patternProperties"), dict)]
    return texts + [name for part in named for name in part]


def choices_in(expression: str) -> int:
    """Return how often a regular expression lets the compiler choose: each choice may double the work of each token."""
    return len(re.findall(r"(?<!\\)[*+?|{]", expression))


def choices(value: object) -> int:
    """Return the number of entries of `anyOf`, `oneOf` and `allOf` in all schemas within a value."""
    schemas = [part for part in nested(value) if isinstance(part, dict)]
    lists = [part.get(name) for part in schemas for name in ("anyOf", "oneOf", "allOf")]
    return sum(len(entries) for entries in lists if isinstance(entries, list))


def repeats(expression: str) -> float:
    """Return the product of all counts in braces of a regular expression, times one more than its other choices.

    `(.{1,10}){1,10}` alone is compiled soon; with six times `.*` after it, it held the compiler for minutes.
    """
    product = 1.0 + len(re.findall(r"(?<!\\)[*+?|]", expression))
    for counts in BRACES.findall(expression):
        product *= max([1.0, *(float(count[:300]) for count in counts if count)])
    return product
