"""Is what lies in a folder the model that a run has made?

Its files are compared with `dvc.lock`, its tokenizer with the base's fingerprint. `stance.serving.live_checks` asks an
engine the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stance.data.records import Gate
from stance.language.translation import listed
from stance.runs.finished import FinishedRun

NOT_SERVED = "is not served, and what answers now is untouched"
"""What becomes of a model that misses one of these gates, or one of `stance.serving.live_checks`'s."""


def files_gate(run: FinishedRun, names: Sequence[str]) -> Gate:
    """Are outputs of a run, files or folders, those that `dvc.lock` records?

    Args:
        run: The run, with the digests of the folders among the outputs.
        names: The outputs, as `dvc.lock` names them.
    """
    other = run.differing(names)
    return Gate(
        "files",
        not other,
        f"{listed(other)} not as recorded" if other else f"{', '.join(names)} as recorded",
        "what dvc.lock records of them",
        "Make them again: `dvc repro` in the run's folder.",
    )


def tokenizer_gate(base: Mapping[str, Any], found: Mapping[str, Any]) -> Gate:
    """Does the tokenizer beside the weights read a conversation as the base's did in training?"""
    names = {"chat_template": "the chat template", "bos_token_id": "the BOS token", "eos_token_id": "the EOS token"}
    changed = [said for key, said in names.items() if base[key] != found[key]]
    lost = ["there is no EOS token"] if found["eos_token_id"] is None else []
    same = base["probes"] == found["probes"] and not changed
    differ = [f"{', '.join(changed)} changed"] if changed else ["other token ids for the probe conversations"]
    return Gate(
        "tokenizer",
        same and not lost,
        "as in training" if same else "; ".join([*lost, *differ]),
        "the chat template, special tokens and token ids that the model was trained with",
        "Make the model again: `dvc repro -f -s merge` in the run's folder.",
    )
