"""The library: what the DVC stages and the Prefect flows have in common, one sub-package per noun."""

import sys
from importlib.util import find_spec

if missing := [name for name in ("numpy", "pydantic", "rich", "yaml") if find_spec(name) is None]:
    raise SystemExit(
        f"error: {sys.executable} has no {', '.join(missing)}; expected the project's own Python: run `make repro` "
        "once, then use .venv/bin/python"
    )
