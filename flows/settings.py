"""What a person sets when a run is started: a few parameters by name, all others by dotted key.

Ranges and descriptions are those of `tasks/params.py`; whatever is left empty stays as the profile has it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic.json_schema import SkipJsonSchema

from tasks.params import PROFILES, Pairs, Params, Section, Train, compose, read_yaml, replaced

BLOCKS = {
    "data_size": "pairs",
    "support_ratio": "pairs",
    "num_epoch": "train",
    "beta": "train",
    "learning_rate": "train",
    "r": "train",
    "lora_alpha": "train",
}
"""Where a field below belongs; `seed` is in no block."""
KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""JSON schema's words, which pydantic leaves out for a value that may be empty."""


def like(block: type[BaseModel], name: str) -> Any:
    """Return an empty field with the range and the description of a parameter."""
    known = block.model_fields[name]
    bounds = {
        keyword: getattr(bound, sign)
        for bound in known.metadata
        for sign, keyword in KEYWORDS.items()
        if hasattr(bound, sign)
    }
    field: Any = empty(known.description, **bounds)
    field.metadata = known.metadata
    return field


def empty(description: str | None, **schema: Any) -> Any:
    """Return a field that is left out where nothing is entered: in a form's eyes None is a wrong value."""

    def without_default(known: dict[str, Any]) -> None:
        known.pop("default")
        known.update(schema)

    return Field(default=None, description=description, json_schema_extra=without_default)


class Settings(Section):
    """The launch form of a run."""

    profile: str | SkipJsonSchema[None] = empty(
        "Where all parameters start from; empty: params.yaml as it is.",
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

    def changes(self) -> dict[str, Any]:
        """Return what is set, by dotted key."""
        given = self.model_dump(exclude={"profile", "overrides"})
        return {".".join(filter(None, (BLOCKS.get(key), key))): value for key, value in given.items()} | self.overrides

    def values(self, params: Path) -> Mapping[str, Any]:
        """Return the whole of `params.yaml` for the run.

        Args:
            params: The file that counts where no profile is named.

        Raises:
            InputError: A value is wrong, alone or beside the others; names it.
        """
        if self.profile:
            return compose(self.profile, self.changes())
        return replaced(read_yaml(params), self.changes(), str(params))
