"""The blocks `align`, `sample`, `reward` and `rl` of `params.yaml`: the steps of RLHF after the fine-tuning.

Names are those of vLLM, TRL and PEFT. PPO was removed from TRL; `rl` uses RLOO (arXiv 2402.14740) or GRPO.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from stance.config.section import Section


class Align(Section):
    """The road from the pairs to the aligned model. A fine-tuning (`sft`) may precede either."""

    method: Literal["dpo", "rlhf"]
    """`dpo`: the stage `train` learns from the pairs directly. `rlhf`: the stage `reward` learns a reward model, the
    stage `rl` trains against it, and the stage `train` hands its adapter on."""


class Sample(Section):
    """How several answers to each training question are drawn, for people or a model to rank."""

    num_answers: int = Field(ge=2, le=16)
    """Most answers per question that are kept (K). A ranking needs at least 2."""
    draws: int = Field(ge=2, le=64)
    """Answers per question that are drawn. Near-duplicates are dropped, so draw more than `num_answers`."""
    temperature: float = Field(gt=0, le=2)
    """How far the drawing departs from the most likely token. 1 draws from the model's own distribution."""
    top_p: float = Field(gt=0, le=1)
    """Share of the probability mass that tokens are drawn from, the most likely ones first. 1 leaves none out."""
    max_similarity: float = Field(gt=0, le=1)
    """Largest similarity of two kept answers, by the pairs of characters that they share (Jaccard). 1 drops only equal
    answers."""

    @model_validator(mode="after")
    def _draws_enough(self) -> Self:
        if self.draws < self.num_answers:
            raise ValueError(
                f"sample.draws is {self.draws}, fewer than sample.num_answers {self.num_answers}; set it to at least "
                f"{self.num_answers}"
            )
        return self


class Reward(Section):
    """Training of the reward model: the base model with a LoRA adapter and a head that gives one number per answer."""

    source: Literal["preferences", "votes", "scores"]
    """What the reward model learns from: the preference pairs, the rankings by people or a model, or given scores.
    Pairs and rankings are learned by a pairwise loss (Bradley-Terry), scores by regression (mean squared error)."""
    min_kappa: float = Field(ge=-1, le=1)
    """With `votes`: Cohen's kappa with people that a model needs before its votes count where no person has voted."""
    min_shared_questions: int = Field(ge=1)
    """With `votes`: number of questions that both have ranked, from which kappa is measured."""
    held_out: float = Field(gt=0, lt=1)
    """Share of the questions whose answers are not trained on. The accuracy is measured on them."""
    num_epoch: float = Field(gt=0)
    """Number of passes over all pairs or scores."""
    learning_rate: float = Field(gt=0)
    """Highest learning rate. TRL recommends 1e-4 to 1e-3 for LoRA."""
    per_device_train_batch_size: int = Field(gt=0)
    """Pairs or scores per optimiser step. All pairs of one ranking stand together: K answers give K(K-1)/2 pairs."""
    max_length: int = Field(gt=0)
    """Most tokens of a question with its answer. A longer one is refused, because TRL would drop it."""
    margin_per_rank: float = Field(ge=0)
    """Margin by which the reward of the better answer shall exceed the other one's, per rank between the two. 0 asks
    for no margin."""
    center_rewards_coefficient: float = Field(ge=0)
    """Weight of a loss that keeps the sum of the two rewards of a pair near 0; 0.01 is usual, 0 leaves it out."""
    gradient_checkpointing: bool
    """Whether to recompute activations in the backward pass. This saves memory and takes a third more time."""
    r: int = Field(gt=0)
    """LoRA rank."""
    lora_alpha: int = Field(gt=0)
    """LoRA scale. The update of the weights is multiplied by `lora_alpha / r`."""
    target_modules: tuple[str, ...] | Literal["all-linear"]
    """Layers that get an adapter: a list of names, or `all-linear` for every linear layer but the head."""


class Rl(Section):
    """Reinforcement learning of a LoRA adapter. TRL has no PPO any more; RLOO and GRPO need no value model."""

    use_vllm: bool
    """Whether vLLM draws the answers, with the adapter of every step, instead of transformers. Faster for a real model;
    the engine takes 10 to 30 s to start. Only with `rloo`."""
    algorithm: Literal["rloo", "grpo"]
    """`rloo`: the KL penalty is a part of the reward, and the baseline is the mean of the other answers to the
    question. `grpo`: the KL penalty is a part of the loss, and rewards are standardised within the question."""
    max_steps: int = Field(gt=0)
    """Number of optimiser steps. Each step draws new answers."""
    num_generations: int = Field(ge=2, le=64)
    """Answers per question and step, which are compared with each other."""
    prompts_per_step: int = Field(gt=0)
    """Questions per optimiser step."""
    per_device_train_batch_size: int = Field(gt=0)
    """Answers whose gradients are computed at once; `num_generations` times `prompts_per_step` is a multiple of it. It
    decides memory and speed, not the result."""
    max_completion_length: int = Field(gt=0)
    """Tokens after which an answer is cut off."""
    temperature: float = Field(gt=0, le=2)
    """Temperature of the answers that are drawn."""
    beta: float = Field(ge=0)
    """Weight of the KL divergence from the reference. Must be above 0; TRL's default for GRPO is 0, without one."""
    learning_rate: float = Field(gt=0)
    """Learning rate, constant. TRL recommends about 1e-5 for LoRA, and its default is 1e-6."""
    reward_model_weight: float = Field(ge=0)
    """Weight of the reward model in the reward."""
    stance_judge_weight: float = Field(ge=0)
    """Weight of the stance judge in the reward. The independent ruler is then another judge."""
    cut_off_penalty: float = Field(ge=0)
    """Subtracted from the reward of an answer that is cut off. Otherwise it is rewarded as if it were finished."""
    window: int = Field(gt=0)
    """Steps that the watchdog averages over."""
    max_ruler_fall: float = Field(gt=0, le=2)
    """Largest fall of the independent ruler, between -1 and 1, below its best average while the reward rises. A larger
    fall stops the training, and the adapter of the best average is kept."""
    gradient_checkpointing: bool
    """Whether to recompute activations in the backward pass. This saves memory and takes a third more time."""
    r: int = Field(gt=0)
    """LoRA rank. Where an adapter of an earlier stage is continued, that adapter's rank counts."""
    lora_alpha: int = Field(gt=0)
    """LoRA scale. The update of the weights is multiplied by `lora_alpha / r`."""
    target_modules: tuple[str, ...] | Literal["all-linear"]
    """Layers that get an adapter: a list of names, or `all-linear` for every linear layer but the head."""

    @model_validator(mode="after")
    def _batch_is_a_part(self) -> Self:
        answers = self.num_generations * self.prompts_per_step
        if answers % self.per_device_train_batch_size:
            raise ValueError(
                f"rl.per_device_train_batch_size is {self.per_device_train_batch_size}, but a step has {answers} "
                f"answers (num_generations x prompts_per_step); set it to a divisor of {answers}"
            )
        return self

    @model_validator(mode="after")
    def _draws_as_the_algorithm_expects(self) -> Self:
        if self.use_vllm and self.algorithm == "grpo":
            raise ValueError(
                "rl.use_vllm is true and rl.algorithm is grpo, whose loss assumes that the policy itself has drawn the "
                "answers; set use_vllm to false, or algorithm to rloo"
            )
        return self

    @model_validator(mode="after")
    def _has_a_reference(self) -> Self:
        if not self.beta:
            raise ValueError(
                f"rl.beta is 0, so that {self.algorithm} has no KL penalty and no reference; set it above 0, for "
                "example to 0.05"
            )
        return self

    @model_validator(mode="after")
    def _has_a_reward(self) -> Self:
        if not self.reward_model_weight and not self.stance_judge_weight:
            raise ValueError(
                "rl.reward_model_weight and rl.stance_judge_weight are both 0, so that there is no reward; set one of "
                "them above 0"
            )
        return self
