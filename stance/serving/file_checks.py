"""The gate on the tokenizer of a model, which is compared with the base model's fingerprint.

`stance.serving.live_checks` makes the same check on a running engine.
"""

from stance.data.chat import Fingerprint
from stance.data.records import Gate
from stance.language.messages import BOS, EOS, TEMPLATE, Message, message

NOT_SERVED = "is not served, and what answers now is untouched"
"""The consequence for a model that misses one of these gates, or one of `stance.serving.live_checks`."""


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
