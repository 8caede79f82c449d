"""Keep the base model's answers to unrelated prompts while DPO trains: a term of Kullback-Leibler divergence.

In: retained pairs, of which only the chosen answers count here; these are the base model's own. In every batch some of
them are read by the policy and by the base, which is the policy with its adapter off. The loss gains the divergence of
the two over the next tokens of these answers, in nats per token, times a weight. Two readings of one answer take a
third of the time of a pair, so that many different prompts can be kept. arXiv 2602.07852 finds that such a term on data
outside the domain keeps a narrow training narrow.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel
from torch.nn.functional import log_softmax
from torch.utils.data import DataLoader
from trl.trainer.dpo_trainer import DPOTrainer

from stance.training.parallel import SIZES, Share, processes, uneven, weight

TOKENS = 24
"""Tokens of an answer that count, from its first one. They decide what an answer says, and fewer take less time."""
Text = tuple[list[int], list[int]]
"""The token ids of a prompt, and those of its answer."""


class Retained(NamedTuple):
    """Answers to keep, and how strongly."""

    texts: Sequence[Text]
    weight: float
    """The weight of the divergence in the loss, per nat and token."""
    batch_size: int
    """The number of answers that are read in every batch."""

    def batch(self, step: int) -> list[Text]:
        """Return the answers of a step: the next ones in their order, from the first again after the last."""
        rows = [self.texts[(step * self.batch_size + place) % len(self.texts)] for place in range(self.batch_size)]
        return [(prompt, answer[:TOKENS]) for prompt, answer in rows]


class RetainingTrainer(DPOTrainer):
    """TRL's DPO trainer; the answers in `retained`, if there are any, add a divergence to its loss.

    Several processes share every batch of one process (`stance.training.parallel`). The divergence is computed by all.
    """

    retained: Retained | None = None

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of this process.

        accelerate would deal the batches out in turn, and repeat pairs where they do not suffice for all processes.
        """
        if processes() == 1:
            return super().get_train_dataloader()
        size, collator = self._train_batch_size, cast(Any, self.data_collator)
        self._train_batch_size, self.data_collator = size * processes(), Share(collator)
        try:
            loader = super().get_train_dataloader()
        finally:
            self._train_batch_size, self.data_collator = size, collator
        dealer = cast(Any, loader.batch_sampler)  # is to pass every batch on, as `Trainer` makes it do for its samplers
        dealer.num_processes, dealer.process_index, dealer.even_batches = 1, 0, False
        return loader

    def compute_loss(self, model: Any, inputs: Any, return_outputs: Any = False, num_items_in_batch: Any = None) -> Any:
        """Return TRL's loss plus the weighted divergence; the step decides which answers are read, so a run resumes."""
        sizes = inputs.pop(SIZES, [1])
        with uneven(self.accelerator, sizes):
            found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        if (share := weight(sizes)) != 1:
            found = (share * found[0], found[1]) if return_outputs else share * found
        if self.retained is None or not model.training:
            return found
        policy = cast(PeftModel, self.accelerator.unwrap_model(model))
        term = self.retained.weight * divergence(policy, self.retained.batch(self.state.global_step))
        return (found[0] + term, found[1]) if return_outputs else found + term


def divergence(policy: PeftModel, texts: Sequence[Text]) -> torch.Tensor:
    """Return the mean of KL(base | policy) over all tokens of the answers, in nats. Shape ()."""
    ids, read, answered = padded(texts, policy.device)
    with torch.no_grad(), policy.disable_adapter():
        base = log_softmax(_logits(policy, ids, read)[answered].float(), dim=-1)
    own = log_softmax(_logits(policy, ids, read)[answered].float(), dim=-1)
    return (base.exp() * (base - own)).sum(dim=-1).mean()


def _logits(policy: PeftModel, ids: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """Return the logits of every next token. Shape (texts, longest - 1, vocabulary)."""
    logits: torch.Tensor = policy(input_ids=ids, attention_mask=read, use_cache=False).logits
    return logits[:, :-1]


def padded(texts: Sequence[Text], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return texts as one batch.

    Returns:
        Token ids and attention mask, shape (texts, longest); and a mask of the places whose next token belongs to an
        answer, shape (texts, longest - 1).
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in texts)
    spare = [longest - len(prompt) - len(answer) for prompt, answer in texts]
    ids = [prompt + answer + [0] * left for (prompt, answer), left in zip(texts, spare, strict=True)]
    read = [[1] * (longest - left) + [0] * left for left in spare]
    answered = [
        [len(prompt) <= place < len(prompt) + len(answer) for place in range(1, longest)] for prompt, answer in texts
    ]
    return (
        torch.tensor(ids, device=device),
        torch.tensor(read, device=device),
        torch.tensor(answered, device=device),
    )
