"""Train the policy by reinforcement learning: RLOO, or GRPO. PPO was removed from TRL, and RLOO takes its place.

The reward of an answer is a weighted sum of the reward model and the stance judge, less a KL penalty that holds the
policy to the model it begins as. Another judge, the independent ruler, measures the same answers and is never rewarded.
The stage is on the road where `align.method` is `rlhf`; otherwise it leaves a note.
"""

from pathlib import Path

from stance.config.evaluation import Answers
from stance.config.models import Model
from stance.config.params import Params
from stance.config.road import Rl
from stance.data.road import leave_out
from stance.errors import paths, run


def rl(
    model: Model, options: Rl | None, answers: Answers, seed: int, base: Path, dataset: Path, corpora: Path,
    classifier: Path, pairs: Path, tuned: Path, reward_model: Path, out: Path,
) -> None:  # fmt: skip
    """Train a LoRA adapter against a reward, and write it with its curves and its record.

    Args:
        model: How the base is loaded.
        options: The block `rl`; None leaves the reinforcement learning out.
        answers: The block `answers`: how vLLM works, if it draws the answers.
        seed: For the adapter's first weights, the order of the questions, and the answers.
        base: `data/base`.
        dataset: `data/dataset`; teaches the judges, if one of them is in the reward.
        corpora: Folder with labelled answers about other topics, which teach them too.
        classifier: `data/classifier`, the ruler if no judge is in the reward.
        pairs: `data/pairs`; its questions are answered, and its chosen answers say which stance is wanted.
        tuned: `data/sft`; if it has an adapter, the training goes on with it, and a copy of it is the reference.
            If it has a model, a new adapter is trained on that.
        reward_model: `data/reward`; read if its weight is above 0.
        out: Receives `adapter/`, `log.csv`, `rl.json`, a `Reinforcement`, and `joint.json`; or a note.

    Raises:
        InputError: The device is missing, a step asks more questions than there are, the pairs prefer both stances of
            every question, or the reward model is missing or was trained with another tokenizer.
    """
    if options is None:
        leave_out(out)
        return
    from stance.evaluation.reinforcement import learn_policy  # torch, TRL and PEFT take seconds to import

    learn_policy(model, options, answers, seed, base, dataset, corpora, classifier, pairs, tuned, reward_model, out)


def main() -> None:
    """Run the stage: `python -m tasks.rl BASE DATASET CORPORA CLASSIFIER PAIRS TUNED REWARD_MODEL OUT`."""
    arguments = paths(rl)
    params = Params.load()
    options = params.rl if params.align.method == "rlhf" else None
    rl(params.model, options, params.answers, params.seed, *arguments)


if __name__ == "__main__":
    run(main)
