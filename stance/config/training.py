"""The blocks `train` and `merge`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from stance.config.section import Section

Loss = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip
"""TRL's."""


class Train(Section):
    """Direct Preference Optimization of a LoRA adapter."""

    num_epoch: float = Field(gt=0)
    """Passes over all pairs."""
    beta: float = Field(gt=0)
    """How strongly the policy is held to the reference; higher stays closer."""
    loss_type: tuple[Loss, ...] = Field(min_length=1)
    """TRL's losses, summed with `loss_weights`; `sft` is the log-likelihood of the chosen answer."""
    loss_weights: tuple[float, ...]
    label_smoothing: float = Field(ge=0, lt=0.5)
    """Share of the pairs that are taken to be labelled the wrong way round; `robust`, `exo_pair` and `aot` have it."""
    learning_rate: float = Field(gt=0)
    """The highest of the schedule; TRL advises some 1e-5 for LoRA, the course takes 2e-4."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    warmup_steps: float = Field(ge=0)
    """Below 1 a fraction of all steps, else a number of steps."""
    optim: Literal["adamw_torch", "paged_adamw_8bit", "adamw_8bit", "paged_adamw_32bit"]
    global_batch_size: int = Field(gt=0)
    """Pairs per optimiser step. It decides the result; the two factors that it is made of decide memory and speed."""
    per_device_train_batch_size: int = Field(gt=0)
    """Pairs that are computed at once; `python -m stance footprint` says how many fit and suggests."""
    gradient_accumulation_steps: int = Field(gt=0)
    max_length: int = Field(gt=0)
    """Tokens of prompt and answer; longer answers are cut, and a prompt that leaves no room for one is refused."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, a third more time."""
    precompute_ref_log_probs: bool
    """Reference log-probabilities once, before training, instead of in every step. Not on a 4-bit CPU base."""
    r: int = Field(gt=0)
    """LoRA rank."""
    lora_alpha: int = Field(gt=0)
    """LoRA scale; the update is multiplied by `lora_alpha / r`."""
    lora_dropout: float = Field(ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"]
    """Layers that get an adapter."""
    save_steps: int = Field(gt=0)
    """Optimiser steps between two checkpoints."""
    max_chosen_fall: float = Field(gt=0)
    """Nats that `logps/chosen` may lose, over three steps on average, before the training is stopped."""
    max_margin: float = Field(gt=0)
    """Reward margin beyond which, over three steps on average, the training is stopped."""

    @model_validator(mode="after")
    def _batch_is_its_factors(self) -> Self:
        micro, accumulated = self.per_device_train_batch_size, self.gradient_accumulation_steps
        if micro * accumulated != self.global_batch_size:
            raise ValueError(
                f"train.global_batch_size is {self.global_batch_size}, and per_device_train_batch_size {micro} x "
                f"gradient_accumulation_steps {accumulated} is {micro * accumulated}; make them equal"
            )
        return self

    @model_validator(mode="after")
    def _smoothing_is_for_a_loss_that_has_it(self) -> Self:
        smoothed = {"robust", "exo_pair", "aot", "aot_unpaired"} & set(self.loss_type)
        if self.label_smoothing and not smoothed:
            raise ValueError(
                f"train.label_smoothing is {self.label_smoothing}, and no loss of {', '.join(self.loss_type)} has it; "
                "set it to 0, or take robust, exo_pair, aot or aot_unpaired"
            )
        if "exo_pair" in smoothed and not self.label_smoothing:
            raise ValueError("train.label_smoothing is 0, and the loss exo_pair needs more; set it to 0.001")
        return self

    @model_validator(mode="after")
    def _one_weight_per_loss(self) -> Self:
        if len(self.loss_type) != len(self.loss_weights):
            raise ValueError(
                f"loss_type has {len(self.loss_type)} entries and loss_weights {len(self.loss_weights)}; "
                "give every loss its weight"
            )
        return self


class Merge(Section):
    """Adapter into base; the bounds are those of the parity gate."""

    base: Literal["measured", "original", "dequantized"]
    """Weights the adapter is added to: bf16 as published, dequantised NF4, or whichever drifts less."""
    max_mean_drift: float = Field(gt=0)
    """Nats per token, mean over all tokens of the pair texts."""
    max_worst_drift: float = Field(gt=0)
    """Nats per token, worst token."""
