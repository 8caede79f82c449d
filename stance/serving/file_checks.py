"""Is what lies in a folder the model that a run has made?

Its files are compared with `dvc.lock`, its tokenizer with the base's fingerprint. `stance.serving.live_checks` asks an
engine the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stance.data.records import Gate
from stance.language.messages import BOS, EOS, TEMPLATE, Message, message
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
        name="files",
        passed=not other,
        figure=message("files_differ", files=other) if other else message("files_as_recorded", files=list(names)),
        bound=message("what_the_lock_records"),
        advice=message("make_files_again"),
    )


def tokenizer_gate(base: Mapping[str, Any], found: Mapping[str, Any]) -> Gate:
    """Does the tokenizer beside the weights read a conversation as the base's did in training?"""
    names = {"chat_template": TEMPLATE, "bos_token_id": BOS, "eos_token_id": EOS}
    changed = [name for key, name in names.items() if base[key] != found[key]]
    figure = _difference(changed, ids_differ=base["probes"] != found["probes"], no_eos=found["eos_token_id"] is None)
    return Gate(
        name="tokenizer",
        passed=figure.id == "as_in_training",
        figure=figure,
        bound=message("tokenizer_of_training"),
        advice=message("make_model_again"),
    )


def _difference(changed: list[str], *, ids_differ: bool, no_eos: bool) -> Message:
    if changed:
        return message("no_eos_and_parts_changed" if no_eos else "parts_changed", parts=changed)
    if no_eos:
        return message("no_eos")
    return message("other_ids" if ids_differ else "as_in_training")
