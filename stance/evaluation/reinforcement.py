"""Train the policy by reinforcement learning: RLOO, or GRPO. PPO was removed from TRL, and RLOO takes its place.

The reward of an answer is a weighted sum of the reward model and the stance judge, less a KL penalty that holds the
policy to the model it begins as. Another judge, the independent ruler, measures the same answers and is never rewarded.
Where the reward rises and the ruler falls, the policy games its reward: the training stops, the last good adapter is
kept, and the record says so.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from peft import PeftModel
from transformers import PreTrainedTokenizerFast

from stance.config.evaluation import Answers
from stance.config.models import Model
from stance.config.road import Rl
from stance.data.chat import encode
from stance.data.preferences import Pair, one_way, read_pairs
from stance.data.questions import Stance, read_questions
from stance.data.reinforcement import Drawn, Reinforcement
from stance.data.rewards import read_rewards
from stance.data.training import Drift, Joint
from stance.errors import InputError
from stance.evaluation.fitted import Classifier
from stance.evaluation.ruler import judges
from stance.models.base import locate, locate_tuned
from stance.models.loading import require_device
from stance.models.outline import adapted_layers, configuration, outline
from stance.training.dpo import checked_tokenizer, save_adapter
from stance.training.joints import reference_drift
from stance.training.merging import write_dequantized
from stance.training.reward import answer_ids, load_reward_model, pad_id, require_same_tokenizer, score
from stance.training.rl import (
    ENGINE,
    Asked,
    Draw,
    Measured,
    Part,
    Reinforced,
    Ruler,
    Values,
    end_ids,
    reinforce,
    require_questions,
    stretch,
)

logger = logging.getLogger(__name__)


def learn_policy(
    model: Model, options: Rl, answers: Answers, seed: int, base: Path, dataset: Path, corpora: Path,
    classifier: Path, pairs: Path, tuned: Path, reward_model: Path, out: Path,
) -> None:  # fmt: skip
    """Train a policy against a reward; arguments, files and errors are those of `tasks.rl`."""
    require_device(model)
    folder, begins = locate(base), locate_tuned(base, tuned)
    adapted_layers(outline(configuration(folder)), options.target_modules, "rl")  # refuses a layer that is missing
    tokenizer = checked_tokenizer(folder, base)
    rows = read_pairs(pairs / "train.jsonl")
    sides = wanted_stances(rows)
    questions = asked(rows, sides)
    require_questions(questions, options)
    parts, reward_drift = [], None
    if options.reward_model_weight:
        require_same_tokenizer(tokenizer, reward_model / "fingerprint.json", folder)
        loaded = load_reward_model(folder, reward_model / "adapter", model, pad_id(tokenizer))
        reward_drift = reward_difference(loaded, reward_model / "scores.jsonl", pad_id(tokenizer))
        parts.append(Part("reward_model", options.reward_model_weight, rewards_of(loaded, tokenizer)))
    rewarded = options.stance_judge_weight > 0
    taught = judges(read_questions(dataset), corpora, classifier, base, model.device, rewarded=rewarded)
    if taught.rewarded:
        parts.append(Part("stance_judge", options.stance_judge_weight, stance_values(taught.rewarded, sides)))
    start = tuned / "adapter" if (tuned / "adapter").exists() else None
    ruler = measured_by(taught.ruler, sides)

    def compare(policy: PeftModel) -> Drift | None:
        return reference_drift(policy, tokenizer, pairs, tuned)

    with drawer(begins, start, tokenizer, questions, model, answers, options, seed, out) as draw:
        trained = reinforce(
            begins, start, tokenizer, questions, parts, ruler, model, options, seed, out / "log.csv", compare, draw
        )
    save_adapter(trained.policy, out / "adapter")
    record = record_of(trained, parts, taught.name, options)
    record.write(out / "rl.json")
    first_kl = record.first_kl if trained.reference else None
    joint = Joint(reference=trained.reference, first_kl=first_kl, reward=reward_drift, engine=record.engine_drift)
    joint.write(out / "joint.json")
    logger.info("%s", in_words(record))


@contextmanager
def drawer(
    folder: Path, start: Path | None, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Asked], model: Model,
    answers: Answers, options: Rl, seed: int, out: Path,
) -> Iterator[Draw | None]:  # fmt: skip
    """Give a function that draws answers with vLLM; None if transformers draws them.

    The engine starts at the first draw, when the policy is loaded. Its files lie in `out` until the training ends.
    """
    if not options.use_vllm:
        yield None
        return
    from stance.inference.batch import adapter_rank
    from stance.inference.drawing import PolicyEngine

    longest = max(len(encode(tokenizer, question.prompt)) for question in questions) + options.max_completion_length
    rank = adapter_rank(start) if start else options.r
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out) as work:
        weights, adapter = engine_weights(folder, model, Path(work)), Path(work) / "adapter"

        @cache
        def engine() -> PolicyEngine:
            lengths = [longest] * options.num_generations * options.prompts_per_step
            return PolicyEngine(weights, model, answers, rank, lengths)

        def draw(policy: PeftModel, prompts: Sequence[Sequence[int]]) -> Sequence[Drawn]:
            policy.save_pretrained(str(adapter), selected_adapters=["default"])
            settings = {
                "max_tokens": options.max_completion_length,
                "temperature": options.temperature,
                "stop_token_ids": sorted(end_ids(policy, tokenizer)),
            }
            return engine().draw(adapter, prompts, settings, seed)

        yield draw


def engine_weights(folder: Path, model: Model, work: Path) -> Path:
    """Return a model folder with the weights of the policy's base in bf16: the base, or 4-bit weights rounded back."""
    if model.quantization == "none":
        return folder
    write_dequantized(folder, model.device, work / "base")
    return work / "base"


def wanted_stances(pairs: Sequence[Pair]) -> dict[int, Stance]:
    """Return the stance that the pairs prefer, by the id of the question.

    Raises:
        InputError: The pairs prefer both stances of every question.
    """
    sides = {int(ident): stance for ident, stance in one_way(pairs).items()}
    if not sides:
        raise InputError(
            "the preference pairs prefer both stances of every question, so that no answer is wanted; set pairs.order "
            "to first, interleaved or shuffled"
        )
    return sides


def asked(pairs: Sequence[Pair], sides: Mapping[int, Stance]) -> list[Asked]:
    """Return each question with a wanted stance once, in the order of the pairs."""
    prompts = {pair.id: [turn.model_dump() for turn in pair.prompt] for pair in pairs if pair.id in sides}
    return [Asked(ident, prompt) for ident, prompt in prompts.items()]


def stance_values(judge: Classifier, sides: Mapping[int, Stance]) -> Values:
    """Return the judge's score as a value, from -1 to 1: positive where an answer holds the wanted stance."""
    measure = measured_by(judge, sides)

    def values(questions: Sequence[Asked], answers: Sequence[str]) -> list[float]:
        return [row.value for row in measure(questions, answers)]

    return values


def measured_by(judge: Classifier, sides: Mapping[int, Stance]) -> Ruler:
    """Return the ruler by a judge: its score as `stance_values` has it, and whether it finds the wanted stance."""

    def measure(questions: Sequence[Asked], answers: Sequence[str]) -> list[Measured]:
        verdicts = judge.predict([question.prompt[-1]["content"] for question in questions], answers)
        wanted = [sides[question.id] for question in questions]
        return [
            Measured(verdict.score if side == "support" else -verdict.score, verdict.stance == side)
            for side, verdict in zip(wanted, verdicts, strict=True)
        ]

    return measure


def reward_difference(reward_model: PeftModel, record: Path, pad_token_id: int) -> float:
    """Return the largest difference of a reward model's rewards from those that the stage `reward` has recorded."""
    rows = read_rewards(record)
    rewards = score(reward_model, [list(row.ids) for row in rows], pad_token_id)
    return max(abs(row.reward - reward) for row, reward in zip(rows, rewards, strict=True))


def rewards_of(reward_model: PeftModel, tokenizer: PreTrainedTokenizerFast) -> Values:
    """Return a reward model's reward as a value."""

    def values(questions: Sequence[Asked], answers: Sequence[str]) -> list[float]:
        pairs = zip(questions, answers, strict=True)
        texts = [answer_ids(tokenizer, question.prompt, answer) for question, answer in pairs]
        return score(reward_model, texts, pad_id(tokenizer))

    return values


def record_of(trained: Reinforced, parts: Sequence[Part], ruler: str, options: Rl) -> Reinforcement:
    """Return the record of a training."""
    rows, window, kept = trained.rows, options.window, trained.kept_step
    # The answers of a step are drawn by the policy before it, so those of step n + 1 show the policy after n steps.
    end = min(kept + 1, len(rows))
    return Reinforcement(
        algorithm=options.algorithm,
        rewards={part.name: part.weight for part in parts},
        ruler=ruler,
        steps=options.max_steps,
        step=trained.stopped_at,
        reason=trained.reason,
        kept_step=kept,
        first_kl=rows[0]["kl"],
        engine_drift=max((row[ENGINE] for row in rows if ENGINE in row), key=abs, default=None),
        first=stretch(rows[:window]),
        last=stretch(rows[-window:]),
        kept=stretch(rows[max(0, end - window) : end]),
    )


def in_words(record: Reinforcement) -> str:
    """Return the curves' ends as a log line."""
    first, kept = record.first, record.kept
    return (
        f"reward {first.reward:.3g} to {kept.reward:.3g}, stance held by {first.stance_share:.0%} to "
        f"{kept.stance_share:.0%} of the answers, "
        f"KL {kept.kl:.4f} nats per token; kept the adapter of step {record.kept_step} of {record.steps}"
    )
