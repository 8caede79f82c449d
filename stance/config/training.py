"""The blocks `train` and `merge` of `params.yaml`: how the adapter is trained, and how it is merged into the base."""

from math import gcd
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from stance.config.section import Section

Loss = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip
"""The losses of TRL's DPOTrainer."""


class PlainText(Section):
    """Continued pre-training on plain text, before the answers are learned. Every token of a text is trained on."""

    path: str
    """A JSON Lines file, `{"text"}` in each line. The texts are joined and cut into blocks of `train.max_length`."""
    num_epoch: float = Field(gt=0)
    """Number of passes over all texts."""
    learning_rate: float = Field(gt=0)
    """Highest learning rate of these passes."""


class Sft(Section):
    """Supervised fine-tuning (SFT) before the training; an adapter's shape and the batches are those of `train`."""

    num_epoch: float = Field(ge=0)
    """Number of passes over all rows; 0 leaves the fine-tuning out."""
    learning_rate: float = Field(gt=0)
    """Highest learning rate. TRL recommends about 2e-4 for LoRA, and 2e-5 for all weights."""
    method: Literal["lora", "full"] = "lora"
    """What is trained: the `lora` adapter that the training goes on with, or, with `full`, all weights of the model,
    which are then saved whole. `full` takes 18 bytes of memory per parameter, or 12 with an 8-bit optimiser."""
    conversations: str | None = None
    """A JSON Lines file with more conversations, `{"messages": [{"role", "content"}, …]}` in each line. The last
    message of each is the answer that is trained on."""
    plain_text: PlainText | None = None
    """Continued pre-training of the same weights on plain text; null for none."""


class Train(Section):
    """Training of a LoRA adapter by Direct Preference Optimization (DPO). Names are those of TRL and PEFT."""

    num_epoch: float = Field(gt=0)
    """Number of passes over all pairs."""
    beta: float = Field(gt=0)
    """How strongly the policy is held to the reference model. A higher value keeps it closer, so it learns less."""
    loss_type: tuple[Loss, ...] = Field(min_length=1)
    """TRL's losses; their weighted sum is minimised. `sft` is the log-likelihood of the chosen answer."""
    loss_weights: tuple[float, ...]
    """Weight of each loss in `loss_type`, in the same order."""
    label_smoothing: float = Field(ge=0, lt=0.5)
    """Share of the pairs that are assumed to be labelled the wrong way round. Only the losses `robust`, `exo_pair`,
    `aot` and `aot_unpaired` use it."""
    learning_rate: float = Field(gt=0)
    """Highest learning rate of the schedule. TRL recommends about 1e-5 for LoRA, and the course uses 2e-4."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    """How the learning rate changes after the warm-up."""
    warmup_steps: float = Field(ge=0)
    """Length of the warm-up: a number of steps, or a share of all steps if below 1."""
    optim: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "adamw_8bit", "paged_adamw_32bit"]
    """Optimiser. On a CPU only `adamw_torch` works. `adamw_torch_fused` is the fastest on a GPU; the 8-bit ones take a
    quarter of its memory."""
    global_batch_size: int = Field(gt=0)
    """Pairs per optimiser step: `per_device_train_batch_size` times `gradient_accumulation_steps`. This product decides
    the result; its two factors decide memory and speed. `model.devices` share it, so it must divide the product."""
    per_device_train_batch_size: int = Field(gt=0)
    """Pairs that are computed at once. More is faster and takes more memory; `python -m stance footprint` shows how
    many fit."""
    gradient_accumulation_steps: int = Field(gt=0)
    """Batches whose gradients are added up for one optimiser step."""
    max_length: int = Field(gt=0)
    """Tokens of prompt and answer together. Longer answers are cut. A prompt that leaves no room for an answer is
    refused."""
    gradient_checkpointing: bool
    """Whether to recompute activations in the backward pass. This saves memory and takes a third more time."""
    precompute_ref_log_probs: bool
    """`true`: the reference log-probabilities are computed once before the training, which is faster. `false`: in every
    step."""
    r: int = Field(gt=0)
    """LoRA rank. A higher rank learns more, and makes a larger adapter."""
    lora_alpha: int = Field(gt=0)
    """LoRA scale. The update of the weights is multiplied by `lora_alpha / r`."""
    lora_dropout: float = Field(ge=0, lt=1)
    """Share of the adapter's inputs that are dropped at random in training."""
    target_modules: tuple[str, ...] | Literal["all-linear"]
    """Layers that get an adapter: a list of names, or `all-linear` for every linear layer but the head."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Whether to compile the layers of the model before the training. A step then takes a third less time, and
    compiling takes one to two minutes. `auto`: on a GPU from 1500 steps on. `always` on a CPU needs a C++ compiler."""
    retained: Literal["pairs", "kl"] = "pairs"
    """How the answers of `pairs.retained` are kept. `pairs`: as further pairs that prefer them to an answer about the
    topic. `kl`: by a term in the loss, the Kullback-Leibler divergence from the base model on them."""
    retained_weight: float = Field(1.0, gt=0)
    """Weight of that divergence in the loss, per nat and token. Only `kl` uses it."""
    retained_batch_size: int = Field(4, gt=0)
    """Retained answers that are read in every batch, in turn. Only `kl` uses it."""
    adapter_scale: float = Field(1.0, gt=0, le=1)
    """Share of the adapter's change that is kept after the training. Below 1 the model lies between the base and the
    trained one (arXiv 2109.01903), so that the stance and the side effects shrink together."""
    save_steps: int = Field(gt=0)
    """Optimiser steps between two checkpoints. A training that is killed resumes from the last one."""
    max_chosen_fall: float = Field(gt=0)
    """Nats by which the log-probability of the chosen answers may drop below the base model's, averaged over three
    steps. A larger drop stops the training."""
    max_margin: float = Field(gt=0)
    """Largest reward margin, averaged over three steps. A larger margin stops the training."""
    max_drift: float | None = Field(None, gt=0)
    """Largest divergence from the base model, in nats per token, on unrelated prompts that are not trained on. It is
    measured every `save_steps`. Above it the training stops, and the checkpoint before is kept. null measures nothing.
    """

    @model_validator(mode="after")
    def _batch_is_its_factors(self) -> Self:
        micro, accumulated = self.per_device_train_batch_size, self.gradient_accumulation_steps
        if micro * accumulated != self.global_batch_size:
            raise ValueError(
                f"train.global_batch_size is {self.global_batch_size}, but per_device_train_batch_size {micro} x "
                f"gradient_accumulation_steps {accumulated} is {micro * accumulated}; make them equal"
            )
        return self

    def shared(self, devices: int) -> tuple[int, int]:
        """Return the two factors of the batch for each of several devices that share it.

        Args:
            devices: Divides `global_batch_size`.

        Returns:
            Pairs at once on a device, and batches for an optimiser step. The number of batches is divided first,
            because fewer batches take less time than smaller ones.
        """
        common = gcd(self.gradient_accumulation_steps, devices)
        return self.per_device_train_batch_size * common // devices, self.gradient_accumulation_steps // common

    @model_validator(mode="after")
    def _smoothing_is_for_a_loss_that_has_it(self) -> Self:
        smoothed = {"robust", "exo_pair", "aot", "aot_unpaired"} & set(self.loss_type)
        if self.label_smoothing and not smoothed:
            raise ValueError(
                f"train.label_smoothing is {self.label_smoothing}, but no loss of {', '.join(self.loss_type)} uses it; "
                "set it to 0, or use robust, exo_pair, aot or aot_unpaired"
            )
        if "exo_pair" in smoothed and not self.label_smoothing:
            raise ValueError("train.label_smoothing is 0, but the loss exo_pair needs more; set it to 0.001")
        return self

    @model_validator(mode="after")
    def _one_weight_per_loss(self) -> Self:
        if len(self.loss_type) != len(self.loss_weights):
            raise ValueError(
                f"loss_type has {len(self.loss_type)} entries but loss_weights has {len(self.loss_weights)}; "
                "give every loss one weight"
            )
        return self


class Merge(Section):
    """How the adapter is merged into the base."""

    base: Literal["measured", "original", "dequantized"]
    """Weights that the adapter is added to. `original`: bf16 as published. `dequantized`: rounded to NF4 and back.
    `measured`: whichever of the two drifts less from the trained model."""

    @model_validator(mode="before")
    @classmethod
    def _bounds_of_earlier_releases(cls, values: Any) -> Any:
        """Leave out the bounds that earlier releases hold: each run measures its own (`stance.data.noise`)."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if key not in ("max_mean_drift", "max_worst_drift")}
