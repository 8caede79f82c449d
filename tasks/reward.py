"""Train a reward model: one number per answer, learned from preferences, rankings or scores.

A ranking of K answers becomes a pair for every two answers of different rank. Some questions are held out, and the
record says how often the reward model is right on them. The stage is on the road where `align.method` is `rlhf` and
there is a block `reward`; otherwise it leaves a note.
"""

from pathlib import Path

from stance.config.models import Model
from stance.config.params import Params
from stance.config.road import Reward
from stance.data.road import leave_out
from stance.errors import paths, run


def reward(
    model: Model, options: Reward | None, seed: int, base: Path, classifier: Path,
    pairs: Path, samples: Path, votes: Path, out: Path,
) -> None:  # fmt: skip
    """Train a reward model, score it again as it was saved, and measure it on questions that were held out.

    Args:
        model: How the base is loaded, and the system prompt.
        options: The block `reward`; None leaves the reward model out.
        seed: For the adapter's first weights, the order of the questions and the choice of those held out.
        base: `data/base`.
        classifier: `data/classifier`, the stance judge that the rewards are compared with.
        pairs: `data/pairs`; read if `source` is `preferences`.
        samples: `data/samples`; read otherwise.
        votes: Folder with `votes.jsonl` and `scores.jsonl`; read otherwise.
        out: Receives `adapter/`, which holds the head, and `log/` with `quality.json`, `log.csv`, `scores.jsonl` and
            `fingerprint.json`; or a note.

    Raises:
        InputError: The device is missing; the votes are about unknown answers or prefer nothing; an answer is too long;
            or the saved model differs from the trained one.
    """
    if options is None:
        leave_out(out)
        return
    from stance.evaluation.reward_training import learn_reward  # torch, TRL and PEFT take seconds to import

    learn_reward(model, options, seed, base, classifier, pairs, samples, votes, out)


def main() -> None:
    """Run the stage: `python -m tasks.reward BASE CLASSIFIER PAIRS SAMPLES VOTES OUT`."""
    arguments = paths(reward)
    params = Params.load()
    options = params.reward if params.align.method == "rlhf" else None
    reward(params.model, options, params.seed, *arguments)


if __name__ == "__main__":
    run(main)
