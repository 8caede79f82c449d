"""What voters go by: one sentence that people see on the page, and that a model is asked with.

`data/sources/votes/guideline.txt` holds it. Without this file a general sentence in the language of the questions
counts. People and models can agree only if they go by the same sentence.
"""

from collections.abc import Sequence
from pathlib import Path

from stance.data.samples import Samples
from stance.language.comparison import request_for

GUIDELINE = "guideline.txt"


def read_guideline(votes: Path, samples: Sequence[Samples]) -> str:
    """Return what voters go by."""
    path = votes / GUIDELINE
    text = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    return text or request_for(row.prompt for row in samples).guideline
