"""The seconds that each stage took when it last ran here, one small file per stage.

DVC names the stage to the program that it starts. The files are in DVC's own folder for temporary files.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

SECONDS = Path(".dvc/tmp/seconds")
STAGE = "DVC_STAGE"
"""The variable by which DVC names the stage."""
STARTED = time.monotonic()
"""When this module was imported, which a stage does first."""


def record_seconds() -> None:
    """Write how long this process has run, if it is a stage that DVC has started."""
    stage = os.environ.get(STAGE, "").rpartition(":")[2]
    if not stage:
        return
    SECONDS.mkdir(parents=True, exist_ok=True)
    (SECONDS / stage).write_text(f"{time.monotonic() - STARTED:.1f}", encoding="utf-8")


def read_seconds(stages: Sequence[str]) -> dict[str, float]:
    """Return the seconds of each stage that has run here, in the given order."""
    return {
        stage: float((SECONDS / stage).read_text(encoding="utf-8")) for stage in stages if (SECONDS / stage).is_file()
    }
