"""Write `docs/parameters.md` again: `.venv/bin/python -m docs.parameters`.

The page lists every parameter of `params.yaml` with its values, its default and its meaning. All of it comes from
`stance/config`, where pydantic checks the same parameters.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stance.config.params import Params

PAGE = Path("docs/parameters.md")
HEAD = """# The parameters

`params.yaml` holds all of them. `make profile NAME=...` replaces it by a profile. Some parameters count only
with one value of another parameter; the column *parameter* then shows this value, for example (`source: folder`). A
parameter without a default must be written, if its block is. The profiles may differ from the defaults.
This page is made from `stance/config` by `.venv/bin/python -m docs.parameters`.
"""
LIMITS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
ITEMS = {"minItems": "at least", "maxItems": "at most"}
Schema = Mapping[str, Any]


def page() -> str:
    """Return the page in Markdown."""
    schema = Params.model_json_schema()
    definitions = schema["$defs"]
    lines = [HEAD]
    for block, field in schema["properties"].items():
        meaning = told(field) or " Or: ".join(told(one) for one, _ in models(field, definitions))
        lines += [f"## {block}\n", f"{meaning}\n"]
        lines += ["| parameter | value | default | meaning |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows(block, field, block in schema["required"], definitions)]
        lines.append("")
    return "\n".join(lines)


def rows(path: str, field: Schema, required: bool, definitions: Schema) -> Iterator[list[str]]:
    """Return the rows of a parameter: those of its parts if it is a block."""
    blocks = models(field, definitions)
    if blocks and {"type": "null"} in field.get("anyOf", []):
        default = "" if required else "`null`"
        yield [f"`{path}`", "block or `null`", default, told(field) or "`null` leaves the block out."]
    for model, chosen_by in blocks:
        for name, part in model["properties"].items():
            if "const" not in part:
                inner = required and name in model.get("required", [])
                for row in rows(f"{path}.{name}", part, inner, definitions):
                    yield [row[0] + chosen_by, *row[1:]]
    if not blocks:
        default = "" if required or "default" not in field else f"`{json.dumps(field['default'])}`"
        yield [f"`{path}`", values(field, definitions), default, told(field)]


def models(field: Schema, definitions: Schema) -> list[tuple[Schema, str]]:
    """Return the blocks that a parameter may be, each with the choice that it belongs to."""
    options = [resolved(option, definitions) for option in field.get("oneOf", field.get("anyOf", [field]))]
    blocks = [option for option in options if "properties" in option]
    return [(block, choice(block) if len(blocks) > 1 else "") for block in blocks]


def choice(block: Schema) -> str:
    """Return the constant of a block that tells it from its alternatives."""
    constants = [f"{name}: {part['const']}" for name, part in block["properties"].items() if "const" in part]
    return f" (`{constants[0]}`)" if constants else ""


def resolved(field: Schema, definitions: Schema) -> Schema:
    """Return the definition that a field refers to, or the field."""
    return definitions[field["$ref"].rpartition("/")[2]] if "$ref" in field else field


def values(field: Schema, definitions: Schema) -> str:
    """Return in words which values a parameter takes."""
    field = resolved(field, definitions)
    if "anyOf" in field:
        return " or ".join(values(option, definitions) for option in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    limits = [f"{sign} {field[name]:g}" for name, sign in LIMITS.items() if name in field]
    limits += [f"{words} {field[name]}" for name, words in ITEMS.items() if name in field]
    kind = {"null": "`null`", "array": "list"}.get(field.get("type", "value"), field.get("type", "value"))
    items = f" of: {values(field['items'], definitions)}" if field.get("items") else ""
    return ", ".join([kind + items, *limits])


def told(field: Schema) -> str:
    """Return the meaning of a parameter in one line of a table."""
    return " ".join(field.get("description", "").split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
