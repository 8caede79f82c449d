"""Reinforcement learning of a LoRA adapter with TRL: RLOO (arXiv 2402.14740) or GRPO (arXiv 2402.03300).

In: a base, perhaps the adapter of an earlier stage, questions, and judges of the answers. Out: the adapter, the curves,
and why the training stopped. In every step the policy answers some questions several times, and answers that are better
than the others to the same question become more likely.

Particular: the reference is the policy as it begins. Without an earlier adapter that is the base. With one, TRL keeps a
frozen copy of it, `ref`. Dropout is off, because TRL draws answers in train mode.
"""

from collections.abc import Callable, Sequence
from math import fsum, isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple, cast
from unittest.mock import patch

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerFast, PrinterCallback

from stance.config.models import Model
from stance.config.road import Rl
from stance.data.chat import Message
from stance.data.reinforcement import Drawn, Stretch
from stance.data.training import Drift
from stance.errors import InputError
from stance.models.loading import arithmetic, load, quantization_config
from stance.training.curves import Curves
from stance.training.dpo import answers_only, begin_as_reference, dequantize
from stance.training.kept_weights import restore
from stance.training.progress import steps
from stance.training.ruler_watchdog import REWARD, RULER, RulerWatchdog

LENGTH, SHARE, ENGINE = "completions/mean_length", "ruler/share", "engine/drift"
COLUMNS = {
    REWARD: "reward",
    RULER: "ruler",
    SHARE: "stance_share",
    "kl": "kl",
    "entropy": "entropy",
    LENGTH: "length",
    "completions/clipped_ratio": "cut_off",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "loss": "loss",
}
"""The columns of the curves by TRL's names; the parts of the reward follow."""


class Asked(NamedTuple):
    """A question that the policy answers."""

    id: int
    prompt: list[Message]


Values = Callable[[Sequence[Asked], Sequence[str]], Sequence[float]]
"""Gives each answer to its question a value."""


class Measured(NamedTuple):
    """What the independent ruler says about an answer."""

    value: float
    """From -1 to 1; higher is better."""
    holds: bool
    """Whether the answer holds the wanted stance."""


Ruler = Callable[[Sequence[Asked], Sequence[str]], Sequence[Measured]]
"""Measures each answer to its question; it is never rewarded."""


Draw = Callable[[PeftModel, Sequence[Sequence[int]]], Sequence[Drawn]]
"""Draws an answer of the policy to every prompt, a list of token ids."""


class Part(NamedTuple):
    """A part of the reward."""

    name: str
    weight: float
    values: Values


class Reinforced(NamedTuple):
    """A policy after its training."""

    policy: PeftModel
    rows: list[dict[str, float]]
    """TRL's metrics of every step, but the count of tokens."""
    reason: str | None
    """Why the watchdog stopped; None if the training came to its end."""
    stopped_at: int | None
    kept_step: int
    """Steps that the policy's adapter was trained for."""
    reference: Drift | None = None
    """What `compare` has measured."""


def reinforce(
    folder: Path, start: Path | None, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Asked],
    parts: Sequence[Part], ruler: Ruler, model: Model, options: Rl, seed: int, log: Path,
    compare: Callable[[PeftModel], Drift | None] = lambda policy: None, draw: Draw | None = None,
) -> Reinforced:  # fmt: skip
    """Train a policy by reinforcement and write its curves to the CSV file `log`.

    Args:
        folder: The base.
        start: The adapter that is continued and is the reference; None for a new one on the base.
        tokenizer: The base's.
        questions: The questions that are answered.
        parts: The parts of the reward.
        ruler: The independent ruler, which is logged and never rewarded.
        model: How the base is loaded.
        options: The block `rl`.
        seed: For the adapter's first weights, the order of the questions, and the answers.
        log: Receives a row per step.
        compare: Compares the reference of the trained policy with the fine-tuned model.
        draw: Draws the answers; None leaves that to transformers.

    Raises:
        InputError: There are fewer questions than a step asks.
    """
    require_questions(questions, options)
    watchdog = RulerWatchdog(options.window, options.max_ruler_fall)
    columns = COLUMNS | {f"part/{part.name}": part.name for part in parts}
    trainer_class, config_class = classes(options.algorithm)
    if draw:
        trainer_class, columns = drawing(trainer_class, draw), columns | {ENGINE: "engine_drift"}
    policy = load_policy(folder, start, model)
    trainer = trainer_class(
        model=policy,
        reward_funcs=reward_function(parts, ruler, options.cut_off_penalty, end_ids(policy, tokenizer)),
        args=config_class(**arguments(model, options, seed, log.parent)),
        train_dataset=Dataset.from_list([question._asdict() for question in questions]),
        processing_class=tokenizer,
        peft_config=None if start else new_adapter(options),
        callbacks=[Curves(log, columns), watchdog],
    )
    trainer.remove_callback(PrinterCallback)
    begin_as_reference(cast(PeftModel, trainer.model))
    dequantize(cast(PeftModel, trainer.model))
    with answers_only():
        trainer.train()
    reference = compare(cast(PeftModel, trainer.model))  # with the autocast of the fine-tuning
    trained = cast(PeftModel, trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False))
    kept = keep_best(trained, watchdog, trainer.state.global_step)
    return Reinforced(trained, steps(trainer.state), watchdog.reason, watchdog.stopped_at, kept, reference)


def keep_best(trained: PeftModel, watchdog: RulerWatchdog, steps: int) -> int:
    """Give a policy that was stopped its best adapter, drop the reference, and return the steps of the kept adapter."""
    if "ref" in trained.peft_config:
        trained.delete_adapter("ref")  # it would be saved too
    if not watchdog.reason:
        return steps
    restore(trained, watchdog.kept.weights)
    return watchdog.kept.steps


def classes(algorithm: Literal["rloo", "grpo"]) -> tuple[Any, Any]:
    """Return TRL's trainer and its configuration.

    The trainers would import vLLM where it is installed, which takes seconds and is not used here.
    """
    with patch("trl.import_utils.is_vllm_available", return_value=False):
        if algorithm == "grpo":
            from trl.trainer.grpo_config import GRPOConfig
            from trl.trainer.grpo_trainer import GRPOTrainer

            return GRPOTrainer, GRPOConfig
        from trl.trainer.rloo_config import RLOOConfig
        from trl.trainer.rloo_trainer import RLOOTrainer

        return RLOOTrainer, RLOOConfig


def drawing(trainer_class: Any, draw: Draw) -> Any:
    """Return TRL's trainer of RLOO whose answers `draw` draws, and which logs how far that engine is from the policy.

    TRL's own use of vLLM merges the adapter into the policy's weights and hands all of them over in every step. 4-bit
    weights would be rounded again by that.
    """

    class Drawing(trainer_class):  # type: ignore[misc]
        def _generate_single_turn(self, prompt_ids: list[list[int]], *_: object) -> list[list[int]]:
            self.drawn = draw(self.accelerator.unwrap_model(self.model), prompt_ids)
            return [row.ids for row in self.drawn]

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            outputs: dict[str, Any] = super()._generate_and_score_completions(inputs)
            self._metrics["train"][ENGINE].append(engine_drift(self.drawn, outputs["old_logps"].tolist()))
            return outputs

    return Drawing


def engine_drift(drawn: Sequence[Drawn], logps: Sequence[float]) -> float:
    """Return how far an engine is from the policy, nats per token; `logps` are the policy's, summed over each answer.

    The mean of log p(engine) - log p(policy) over tokens that the engine drew estimates the KL divergence.
    """
    tokens = sum(len(row.ids) for row in drawn)
    return (fsum(value for row in drawn for value in row.logps) - fsum(logps)) / tokens


def require_questions(questions: Sequence[Asked], options: Rl) -> None:
    """Refuse fewer questions than a step asks: TRL would train on none.

    Raises:
        InputError: There are fewer.
    """
    if len(questions) < options.prompts_per_step:
        raise InputError(
            f"rl.prompts_per_step is {options.prompts_per_step}, and there are {len(questions)} questions; set it to "
            f"at most {len(questions)}"
        )


def load_policy(folder: Path, start: Path | None, model: Model) -> PreTrainedModel | PeftModel:
    """Return the base, with the adapter that is continued if there is one."""
    base = load(folder, model.device, quantization_config(model))
    return PeftModel.from_pretrained(base, str(start), is_trainable=True) if start else base


def new_adapter(options: Rl) -> LoraConfig:
    """Return PEFT's configuration of a new adapter. TRL draws answers in train mode, so it has no dropout."""
    modules = options.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=options.r,
        lora_alpha=options.lora_alpha,
        lora_dropout=0.0,
        target_modules=modules if isinstance(modules, str) else list(modules),
    )


def end_ids(policy: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """Return the tokens that end an answer: the tokenizer's, and those in the model's generation configuration."""
    ends = policy.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return {token for token in (tokenizer.eos_token_id, *listed) if token is not None}


def reward_function(
    parts: Sequence[Part], ruler: Ruler, cut_off_penalty: float, ends: set[int]
) -> Callable[..., list[float]]:
    """Return TRL's reward function: the weighted sum of the parts, less the penalty where an answer is cut off.

    It logs the mean of each part and of the ruler, and the share of the answers that hold the stance by the ruler.
    """

    def total(
        prompts: list[list[Message]],
        completions: list[list[Message]],
        completion_ids: list[list[int]],
        id: list[int],
        log_metric: Callable[[str, float], None],
        **_: object,
    ) -> list[float]:
        asked = [Asked(*row) for row in zip(id, prompts, strict=True)]
        answers = [completion[0]["content"].strip() for completion in completions]
        cut_off = [not ids or ids[-1] not in ends for ids in completion_ids]
        measured = ruler(asked, answers)
        log_metric(RULER, fmean(row.value for row in measured))
        log_metric(SHARE, fmean(row.holds for row in measured))
        rewards = [-cut_off_penalty * cut for cut in cut_off]
        for part in parts:
            values = part.values(asked, answers)
            log_metric(f"part/{part.name}", fmean(values))
            rewards = [reward + part.weight * value for reward, value in zip(rewards, values, strict=True)]
        return rewards

    return total


def arguments(model: Model, options: Rl, seed: int, folder: Path) -> dict[str, Any]:
    """Return the arguments of TRL's configuration, of RLOO and of GRPO alike."""
    batch = options.num_generations * options.prompts_per_step
    return {
        "output_dir": str(folder),
        "seed": seed,
        "max_steps": options.max_steps,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "per_device_train_batch_size": options.per_device_train_batch_size,
        "gradient_accumulation_steps": batch // options.per_device_train_batch_size,
        "num_generations": options.num_generations,
        "max_completion_length": options.max_completion_length,
        # Where the policy's logits are no numbers, torch would end a draw on a GPU with a device-side assertion. So the
        # draw goes on, the loss of the step is no number, and the watchdog stops.
        "generation_kwargs": {"remove_invalid_values": True},
        "temperature": options.temperature,
        "beta": options.beta,
        "disable_dropout": True,
        "gradient_checkpointing": options.gradient_checkpointing,
        "use_cpu": model.device == "cpu",
        "bf16": arithmetic(model.device) == torch.bfloat16,
        "dataloader_pin_memory": model.device == "cuda",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def stretch(rows: Sequence[dict[str, float]]) -> Stretch:
    """Return the averages over some steps, of the figures that are numbers."""
    names = {
        "reward": REWARD,
        "ruler": RULER,
        "stance_share": SHARE,
        "kl": "kl",
        "entropy": "entropy",
        "length": LENGTH,
    }
    return Stretch(**{field: average([row[name] for row in rows]) for field, name in names.items()})


def average(values: Sequence[float | None]) -> float:
    """Return the average of those values that are numbers; TRL logs None where all of a step's values were none."""
    numbers = [value for value in values if value is not None and isfinite(value)]
    return fmean(numbers) if numbers else nan
