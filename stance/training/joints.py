"""The joint of two trainings: the second one begins where the first has ended, which is measured and not believed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import fsum
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedTokenizerFast

from stance.data.likelihoods import Logps, read_logps
from stance.data.preferences import Pair, read_pairs
from stance.data.training import NO_JOINT, Drift, Joint
from stance.models.parity import Scores, score
from stance.training.merging import answer_texts

LOGPS = "logps.json"
"""The fine-tuned model's log-probabilities, in the folder of `sft`."""
REFERENCE = "ref"
"""TRL's name for the frozen copy of an adapter that a training began with."""


def reference_drift(policy: PeftModel, tokenizer: PreTrainedTokenizerFast, pairs: Path, tuned: Path) -> Drift | None:
    """Compare the reference of a training that has ended with the fine-tuned model; None without a fine-tuning.

    The reference is a frozen copy of the fine-tuned adapter, `ref`. Where `sft` has trained all weights, it is the
    policy without its adapter.

    Args:
        policy: The trained policy.
        tokenizer: The tokenizer of the training.
        pairs: `data/pairs`.
        tuned: `data/sft`.
    """
    if not (tuned / LOGPS).exists():
        return None
    rows = [*read_pairs(pairs / "train.jsonl"), *read_pairs(pairs / "eval.jsonl")]
    texts = [text for row in rows for text in answer_texts(tokenizer, row)]
    with as_reference(policy):
        scores = score(policy, texts)
    return drift_from(rows, scores, read_logps(tuned / LOGPS))


@contextmanager
def as_reference(policy: PeftModel) -> Iterator[None]:
    """Let a policy compute as its reference does."""
    if REFERENCE not in policy.peft_config:
        with policy.disable_adapter():
            yield
        return
    policy.set_adapter(REFERENCE)
    yield
    policy.set_adapter("default")


def dpo_joint(reference: Drift | None, first: Mapping[str, float]) -> Joint:
    """Return the joint of a fine-tuning and DPO; `first` holds TRL's metrics of the first step."""
    if reference is None:
        return NO_JOINT
    return Joint(reference=reference, first_reward=max(abs(first["rewards/chosen"]), abs(first["rewards/rejected"])))


def drift_from(rows: Sequence[Pair], scores: Sequence[Scores], recorded: Logps) -> Drift:
    """Return the differences of a reference's log-probabilities from the recorded ones, token by token."""
    sides = [(str(row.id), stance) for row in rows for stance in (row.preferred, row.against)]
    differences = [
        abs(mine - before)
        for (row, stance), scored in zip(sides, scores, strict=True)
        if stance in recorded[row]  # the base model's own answers are not recorded
        for mine, before in zip(scored.logps, recorded[row][stance], strict=True)
    ]
    return Drift(
        mean=fsum(differences) / len(differences), worst=max(differences), top_flips=0, tokens=len(differences)
    )
