"""Train a reward model: one number per answer, learned from preferences, rankings or scores.

A ranking of K answers becomes a pair for every two answers of different rank, and all pairs of one question stand
together. Some questions are held out, and the record says how often the reward model is right on them, whether it
prefers long answers, and how far it agrees with the stance judge. The saved model is read from its files and scored
again, because a reward model whose head was not saved gives random rewards without an error.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from stance.config.models import Model
from stance.config.road import Reward
from stance.data.chat import fingerprint
from stance.data.comparisons import Comparison, Scored, answers_of, of_pairs, of_scores, of_votes, split
from stance.data.preferences import read_pairs
from stance.data.rewards import RewardedText, RewardQuality, VoterAgreement, write_rewards
from stance.data.samples import read_samples
from stance.data.votes import current, read_scores, read_votes, require_known, require_scored
from stance.evaluation.fitted import read_classifier
from stance.evaluation.reward_model import AnswerValues, quality_of
from stance.evaluation.vote_agreement import require_models
from stance.models.base import locate
from stance.models.loading import require_device
from stance.models.outline import adapted_layers, configuration, outline
from stance.training.dpo import checked_tokenizer, save_adapter
from stance.training.merging import release_memory
from stance.training.reward import (
    answer_ids,
    load_reward_model,
    pad_id,
    reload_difference,
    require_lengths,
    score,
    train_reward_model,
)

logger = logging.getLogger(__name__)


def learn_reward(
    model: Model, options: Reward, seed: int, base: Path, classifier: Path,
    pairs: Path, samples: Path, votes: Path, out: Path,
) -> None:  # fmt: skip
    """Train, save, load and measure a reward model; arguments, files and errors are those of `tasks.reward`."""
    require_device(model)
    agreements = voters(options, votes)
    rows = examples(options, model.system_prompt, pairs, samples, votes)
    train, held_out = split(rows, options.held_out, seed)
    folder = locate(base)
    adapted_layers(outline(configuration(folder)), options.target_modules, "reward")  # refuses a layer that is missing
    tokenizer = checked_tokenizer(folder, base)
    answers = answers_of(rows)
    ids = {(ident, text): answer_ids(tokenizer, prompt, text) for (ident, text), prompt in answers.items()}
    require_lengths(list(ids.values()), options.max_length)
    trained = train_reward_model(folder, tokenizer, train, model, options, seed, out / "log.csv")
    before = score(trained.model, list(ids.values()), pad_id(tokenizer))
    losses = trained.losses
    save_adapter(trained.model, out / "adapter")
    fingerprint(tokenizer).write(out / "fingerprint.json")
    del trained
    release_memory()
    reloaded = load_reward_model(folder, out / "adapter", model, pad_id(tokenizer))
    after = score(reloaded, list(ids.values()), pad_id(tokenizer))
    difference = reload_difference(before, after)
    write_rewards(out / "scores.jsonl", [RewardedText(*row) for row in zip(ids.values(), after, strict=True)])
    del reloaded
    release_memory()
    judge = read_classifier(classifier, base, model.device)
    verdicts = judge.predict([prompt[-1]["content"] for prompt in answers.values()], [text for _, text in answers])
    values = {
        answer: AnswerValues(value, len(ids[answer]), verdict.score)
        for answer, value, verdict in zip(answers, after, verdicts, strict=True)
    }
    quality = quality_of(options.source, train, held_out, values, losses, difference, agreements)
    quality.write(out / "quality.json")
    logger.info("%s", in_words(quality))


def examples(
    options: Reward, system_prompt: str, pairs: Path, samples: Path, votes: Path
) -> Sequence[Comparison | Scored]:
    """Return what the reward model learns from, after a check that it is about known answers."""
    if options.source == "preferences":
        return of_pairs(read_pairs(pairs / "train.jsonl"))
    sampled = read_samples(samples / "samples.jsonl")
    if options.source == "scores":
        scores = read_scores(votes / "scores.jsonl")
        require_scored(votes / "scores.jsonl", scores, sampled)
        return of_scores(scores, sampled, system_prompt)
    ranked = current(read_votes(votes / "votes.jsonl"))
    require_known(votes / "votes.jsonl", ranked, sampled)
    return of_votes(ranked, sampled, system_prompt)


def voters(options: Reward, votes: Path) -> dict[str, VoterAgreement]:
    """Return how far the models that vote alone agree with people.

    Raises:
        InputError: One of them agrees too little, or on too few questions.
    """
    if options.source != "votes":
        return {}
    measured = require_models(read_votes(votes / "votes.jsonl"), options.min_kappa, options.min_shared_questions)
    return {name: VoterAgreement.model_validate(figures._asdict()) for name, figures in measured.items()}


def in_words(quality: RewardQuality) -> str:
    """Return the accuracy and its interval as a log line."""
    if quality.accuracy is None:
        return "no two held-out answers to one question differ in score, so that there is no accuracy"
    return "right on {count} of {total} held-out pairs: {share:.0%} (95 % interval {low:.0%} to {high:.0%})".format(
        **quality.accuracy.model_dump()
    )
