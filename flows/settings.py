"""The launch form of a run: a field for a few parameters, and all others by dotted key.

Ranges and descriptions come from `stance/config`. An empty field keeps the value of the profile. The description of a
field ends with its range and with its value in `params.yaml` at the moment when the schema of the form is made. A run
starts from the last commit unless `uncommitted` is on, so an edited value stands beside the committed one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic.json_schema import SkipJsonSchema

from stance.config.data import Pairs
from stance.config.params import Params
from stance.config.profiles import PROFILES, Overrides
from stance.config.section import Section
from stance.config.training import Train
from stance.errors import InputError
from stance.machine.files import lookup, parse_yaml, read_yaml
from stance.machine.git import attempt

KEYS = {
    "data_size": "pairs.data_size",
    "support_ratio": "pairs.support_ratio",
    "num_epoch": "train.num_epoch",
    "beta": "train.beta",
    "learning_rate": "train.learning_rate",
    "r": "train.r",
    "lora_alpha": "train.lora_alpha",
    "seed": "seed",
}
"""The dotted key of each field that is a parameter."""
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
    field: Any = empty(" ".join(filter(None, (parameter.description, in_range(bounds)))), **bounds)
    field.metadata = parameter.metadata
    return field


def empty(description: str, **schema: Any) -> Any:
    """Return a field that is left out if nothing is entered; the form would refuse None as a value.

    Args:
        description: The meaning.
        schema: Further keywords of JSON schema, such as bounds.
    """

    def without_default(properties: dict[str, Any]) -> None:
        properties.pop("default")
        properties.update(schema)

    return Field(default=None, description=description, json_schema_extra=without_default)


def in_range(bounds: Mapping[str, Any]) -> str:
    """Return bounds in words; an empty text if there are none."""
    parts = [f"{WORDS[keyword]} {bound:g}" for keyword, bound in bounds.items()]
    return f"Range: {' and '.join(parts)}." if parts else ""


def add_values(schema: dict[str, Any]) -> None:
    """Add to the description of each field of the form the present value of its parameter."""
    edited, committed = params_of_the_folder(), params_of_the_commit()
    for name, key in KEYS.items():
        if value := present(lookup(edited, key), lookup(committed, key)):
            schema["properties"][name]["description"] += f" {value}"


def params_of_the_folder() -> dict[str, Any]:
    """Return the values in `params.yaml` with the edits; none if the file is missing or no YAML."""
    try:
        return read_yaml(PARAMS)
    except (InputError, OSError):
        return {}


def params_of_the_commit() -> dict[str, Any]:
    """Return the values in `params.yaml` of the last commit; none if it has no such file."""
    shown = attempt(Path(), "show", f"HEAD:./{PARAMS}")
    try:
        return parse_yaml(shown.stdout, PARAMS)
    except InputError:
        return {}


def present(edited: Any, committed: Any) -> str:
    """Return the present value of a parameter in words, and the committed one if it differs; empty without a value."""
    if edited is None:
        return ""
    if committed in (None, edited):
        return f"Now in params.yaml: {edited}."
    return f"Now in params.yaml: {committed} in the last commit, {edited} with the switch `uncommitted`."


class Settings(Section):
    """The launch form of a run."""

    model_config = ConfigDict(json_schema_extra=add_values)

    profile: str | SkipJsonSchema[None] = empty(
        "The profile that all parameters start from; empty: those of params.yaml.",
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
        named = {KEYS[name]: value for name, value in entered.items()}
        return Overrides(self.profile, named | self.overrides)
