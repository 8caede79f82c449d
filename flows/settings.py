"""The launch form of a run: a field for a few parameters, and all others by dotted key.

Ranges and descriptions come from `stance/config`. An empty field keeps the value of the profile. The description of a
field ends with its range and with its value in `params.yaml` at the moment when the schema of the form is made.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic.json_schema import SkipJsonSchema

from stance.config.data import Pairs
from stance.config.params import Params
from stance.config.profiles import PROFILES, Overrides
from stance.config.section import Section
from stance.config.training import Train
from stance.errors import InputError
from stance.machine.files import lookup, read_yaml

BLOCKS = {
    "data_size": "pairs",
    "support_ratio": "pairs",
    "num_epoch": "train",
    "beta": "train",
    "learning_rate": "train",
    "r": "train",
    "lora_alpha": "train",
}
"""The block of `params.yaml` that each field belongs to; `seed` is in none."""
KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""The keywords of JSON schema for bounds, which pydantic leaves out for a value that may be empty."""
WORDS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than"}
PARAMS = Path("params.yaml")


def like(block: type[BaseModel], name: str) -> Any:
    """Return an empty field with the range and the description of a parameter."""
    parameter = block.model_fields[name]
    bounds = {
        keyword: getattr(bound, sign)
        for bound in parameter.metadata
        for sign, keyword in KEYWORDS.items()
        if hasattr(bound, sign)
    }
    key = name if block is Params else f"{BLOCKS[name]}.{name}"
    field: Any = empty(parameter.description, key, **bounds)
    field.metadata = parameter.metadata
    return field


def empty(description: str | None, key: str | None = None, **schema: Any) -> Any:
    """Return a field that is left out if nothing is entered; the form would refuse None as a value.

    Args:
        description: The meaning.
        key: The dotted key of the parameter; None if the field is none.
        schema: Further keywords of JSON schema, such as bounds.
    """

    def without_default(properties: dict[str, Any]) -> None:
        properties.pop("default")
        properties.update(schema)
        if key:
            properties["description"] = " ".join(filter(None, (description, in_range(schema), present(key))))

    return Field(default=None, description=description, json_schema_extra=without_default)


def in_range(bounds: Mapping[str, Any]) -> str:
    """Return bounds in words; an empty text if there are none."""
    parts = [f"{WORDS[keyword]} {bound:g}" for keyword, bound in bounds.items()]
    return f"Range: {' and '.join(parts)}." if parts else ""


def present(key: str) -> str:
    """Return the present value of a parameter in words; an empty text without a readable `params.yaml`."""
    try:
        value = lookup(read_yaml(PARAMS), key)
    except (InputError, LookupError, OSError):
        return ""
    return "" if value is None else f"Now in params.yaml: {value}."


class Settings(Section):
    """The launch form of a run."""

    profile: str | SkipJsonSchema[None] = empty(
        "The profile that all parameters start from; empty: params.yaml as it is.",
        enum=sorted(path.stem for path in PROFILES.glob("*.yaml")),
    )
    data_size: int | SkipJsonSchema[None] = like(Pairs, "data_size")
    support_ratio: float | SkipJsonSchema[None] = like(Pairs, "support_ratio")
    num_epoch: float | SkipJsonSchema[None] = like(Train, "num_epoch")
    beta: float | SkipJsonSchema[None] = like(Train, "beta")
    learning_rate: float | SkipJsonSchema[None] = like(Train, "learning_rate")
    r: int | SkipJsonSchema[None] = like(Train, "r")
    lora_alpha: int | SkipJsonSchema[None] = like(Train, "lora_alpha")
    seed: int | SkipJsonSchema[None] = like(Params, "seed")
    overrides: dict[str, Any] = Field(
        default={}, description='All other parameters by dotted key, for example {"answers.max_new_tokens": 60}.'
    )

    @model_serializer(mode="wrap")
    def _filled(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if value is not None}

    def parameters(self) -> Overrides:
        """Return the profile and the entered values, by dotted key."""
        entered = self.model_dump(exclude={"profile", "overrides"})
        named = {".".join(filter(None, (BLOCKS.get(key), key))): value for key, value in entered.items()}
        return Overrides(self.profile, named | self.overrides)
