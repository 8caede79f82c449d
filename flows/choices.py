"""The lists of the launch forms: the completed runs and the grids, as they are when a form's schema is made."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import GetJsonSchemaHandler

from stance.runs import workspace

GRIDS = Path("grids")


class Choice:
    """An annotation of a text: the form offers a list of values instead of a free text."""

    def __init__(self, values: Callable[[], Sequence[str]]) -> None:
        """Keep the function that returns the values."""
        self._values = values

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema of the text with the values of this moment; no list if there is no value."""
        values = list(self._values())
        return {**handler(core), "enum": values} if values else handler(core)


def runs() -> list[str]:
    """Return the names of the completed runs, the newest first."""
    return [run.name for _folder, run in reversed(workspace.all_runs()) if run.state == "completed"]


def own_tree_or_run() -> list[str]:
    """Return an empty name, for the run in the project's own tree, and the names of the completed runs."""
    return ["", *runs()]


def grids() -> list[str]:
    """Return the names of the grids."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))
