"""Gates on the files of a run: are they those that the run made?

The files are compared with `dvc.lock`, the tokenizer with the base model's fingerprint. `stance.serving.live_checks`
makes the same checks on a running engine.
"""

from collections.abc import Sequence

from stance.data.chat import Fingerprint
from stance.data.records import Gate
from stance.language.messages import BOS, EOS, TEMPLATE, Message, message
from stance.runs.finished import FinishedRun

NOT_SERVED = "is not served, and what answers now is untouched"
"""The consequence for a model that misses one of these gates, or one of `stance.serving.live_checks`."""


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


def up_to_date_gate(run: FinishedRun) -> Gate:
    """Are parameters, code and data those that the model was made from? They are published with it."""
    changed = run.changed
    return Gate(
        name="up to date",
        passed=not changed,
        figure=message("changed_since", keys=changed) if changed else message("nothing_changed_since"),
        bound=message("as_the_lock_records"),
        advice=message("put_back"),
    )


def tokenizer_gate(base: Fingerprint, model: Fingerprint) -> Gate:
    """Does the tokenizer beside the weights read a conversation as the base's did in training?"""
    names = {"chat_template": TEMPLATE, "bos_token_id": BOS, "eos_token_id": EOS}
    changed = [name for key, name in names.items() if getattr(base, key) != getattr(model, key)]
    figure = _difference(changed, ids_differ=base.probes != model.probes, no_eos=model.eos_token_id is None)
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
