"""One page about one run, in each language: what was wanted, what came of it, and what made the model.

A page is a single file that fetches nothing: style and curves are in it. It says neither when nor where it was made,
so the same inputs give the same bytes. Markup is in `report.html.j2`, which escapes whatever it is given; the
values that it shows are made here.
"""

from pathlib import Path

from stance.config.params import Params
from stance.errors import paths, run
from stance.language.translation import LANGUAGES, speaking
from stance.pages.render import CATALOGUE
from stance.pages.run_page import page


def report(
    params: Params,
    dataset: Path,
    base: Path,
    pairs: Path,
    train: Path,
    merge: Path,
    answers: Path,
    evaluation: Path,
    tuned: Path,
    reward: Path,
    reinforced: Path,
    out: Path,
) -> None:
    """Write the page about a run to `out`, in each language.

    Args:
        params: All of them: the page shows what the run was made with.
        dataset: `data/dataset`, for the hashes of its two files, and for what a linter says of them.
        base: `data/base`, for what the base model is.
        pairs: `data/pairs`, with what the linter said of them.
        train: `data/train`, for the log of the training and whether it was stopped.
        merge: `data/merge`, for parity and fingerprint.
        answers: `data/answers`.
        evaluation: `data/evaluation`, for metrics, gates and stances.
        tuned: `data/sft`, for the mask of the fine-tuning.
        reward: `data/reward`, for the figures of the reward model.
        reinforced: `data/rl`, for the figures of the reinforcement learning.
        out: Receives `index.html`, in English, and `index.zh-TW.html`.
    """
    out.mkdir(parents=True, exist_ok=True)
    folders = (dataset, base, pairs, train, merge, answers, evaluation, tuned, reward, reinforced)
    for language in LANGUAGES:
        with speaking(language, CATALOGUE):
            text = page(params, *folders)
        (out / language.page).write_text(text, encoding="utf-8")


def main() -> None:
    """Run the stage: `python -m tasks.report DATASET BASE PAIRS TRAIN MERGE ANSWERS EVALUATION SFT REWARD RL OUT`."""
    arguments = paths(report)
    report(Params.load(), *arguments)


if __name__ == "__main__":
    run(main)
