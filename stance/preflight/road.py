"""The checks of the long road before a run: what the blocks `sft`, `reward` and `rl` need of the data and the votes."""

from collections.abc import Sequence
from pathlib import Path

from stance.config.params import Params
from stance.config.road import Reward
from stance.data.comparisons import of_pairs
from stance.data.pairs import split, training_pairs
from stance.data.plain_text import read_texts
from stance.data.preferences import Pair, one_way
from stance.data.questions import Question
from stance.data.samples import read_samples
from stance.data.votes import current, read_scores, read_votes, require_known, require_scored
from stance.errors import InputError
from stance.machine.files import from_project


def require_road(params: Params, questions: Sequence[Question], votes: Path, samples: Path) -> str:
    """Refuse blocks of the long road that would fail in a stage, after the stages before it were paid for.

    Args:
        params: All of them.
        questions: Questions of the data set.
        votes: `data/sources/votes`.
        samples: `data/samples/samples.jsonl`; votes are compared with it where it exists.

    Returns:
        The road in words.

    Raises:
        InputError: Votes are missing, about unknown answers or without a preference; the pairs prefer nothing; a step
            asks more questions than there are; or the conversations or plain texts of `sft` do not exist.
    """
    if params.fine_tunes and params.sft and params.sft.conversations:
        _require_file(from_project(Path(params.sft.conversations)))
    if params.fine_tunes and params.sft and params.sft.plain_text:
        read_texts(from_project(Path(params.sft.plain_text.path)))
    first = ["sft"] if params.fine_tunes else []
    if params.align.method == "dpo" or params.rl is None:
        return " → ".join([*first, "train"])
    used, _ = split(questions, params.pairs.data_size, params.pairs.offset)
    pairs = training_pairs(used, params.pairs, params.model.system_prompt, params.seed)
    _require_asked(pairs, params.rl.prompts_per_step)
    if params.reward is None:
        return " → ".join([*first, "rl"])
    if params.reward.source == "preferences":
        of_pairs(pairs)
    else:
        require_votes(params.reward, votes, samples)
    return " → ".join([*first, "reward", "rl"])


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"sft.conversations is {path}, which does not exist; name a JSON Lines file")


def _require_asked(pairs: Sequence[Pair], prompts_per_step: int) -> None:
    count = len(one_way(pairs))
    if count == 0:
        raise InputError(
            "align.method is rlhf, and the preference pairs prefer both stances of every question, so that no answer "
            "is wanted; set pairs.order to first, interleaved or shuffled"
        )
    if prompts_per_step > count:
        raise InputError(
            f"rl.prompts_per_step is {prompts_per_step}, and there are {count} questions; set it to at most {count}"
        )


def require_votes(options: Reward, votes: Path, samples: Path) -> None:
    """Refuse a reward model without votes, votes on unknown answers, and a model that disagrees with people."""
    path = votes / f"{options.source}.jsonl"
    if not path.exists():
        raise InputError(
            f"reward.source is {options.source}, and {path} does not exist; run `dvc repro sample` and rank the "
            "answers, or set reward.source to preferences"
        )
    votes_read = [] if options.source == "scores" else read_votes(path)
    if votes_read:
        from stance.evaluation.vote_agreement import require_models  # numpy and more take a second to import

        require_models(votes_read, options.min_kappa, options.min_shared_questions)
    scores = read_scores(path) if options.source == "scores" else []
    if not samples.exists():
        return  # they are drawn in this run
    sampled = read_samples(samples)
    if options.source == "scores":
        require_scored(path, scores, sampled)
    else:
        require_known(path, current(votes_read), sampled)
