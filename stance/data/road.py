"""The note that a stage leaves in place of its output where it is not on the road of a run.

`params.yaml` decides which stages are on the road (`align.method`, and the blocks that are null). DVC wants an output
of every stage. `tasks/python` writes the same note without Python where it can.
"""

from pathlib import Path

NOTE = "left_out.txt"
TEXT = "This stage is not on the road of this run; see `align` and the block of its name in params.yaml.\n"


def leave_out(out: Path) -> None:
    """Write the note to the folder `out`, and print it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / NOTE).write_text(TEXT, encoding="utf-8")
    print(TEXT, end="")
