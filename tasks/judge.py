"""A second opinion on the stance of every answer: by the base model, or by a model behind an OpenAI-style endpoint.

The judge by wording (`stance/evaluation/classifier.py`) decides; this one checks it. It is shown the data set's own
questions with their answers and labels (few-shot), then asked about each answer for one word. An endpoint that is down
or answers nonsense costs the opinion and nothing else: what was wrong is written in its place.
"""

import logging
from pathlib import Path

from stance.config.evaluation import Answers, BaseJudge, EndpointJudge, NoJudge
from stance.config.models import Model
from stance.config.params import Params
from stance.data.answers import read_answers
from stance.data.questions import read_questions
from stance.data.verdicts import Opinion
from stance.errors import paths, run
from stance.evaluation.llm_judge import SHOWN, inquiry_for, of_base, of_endpoint, request, unreadable

logger = logging.getLogger(__name__)


def judge(
    opinion: NoJudge | BaseJudge | EndpointJudge, model: Model, options: Answers,
    base: Path, dataset: Path, answers: Path, out: Path,
) -> None:  # fmt: skip
    """Write the second judge's stances to `out`, or what kept it from judging.

    Args:
        opinion: Who judges, if anybody.
        model: Device of the base model.
        options: How vLLM works; the block `answers`.
        base: `data/base`.
        dataset: `data/dataset`, for the questions that are shown.
        answers: `data/answers`.
        out: JSON: `judge`, who it was, or null; `problem`, or null; and for `base` and `aligned` a stance per answer,
            null where it could not be read.
    """
    if isinstance(opinion, NoJudge):
        Opinion(judge=None, problem=None).write(out)
        return
    rows = {name: read_answers(answers / f"{name}.jsonl") for name in ("base", "aligned")}
    shown = read_questions(dataset)[:SHOWN]
    inquiry = inquiry_for(shown)
    asked = [request(inquiry, shown, row) for found in rows.values() for row in found]
    if isinstance(opinion, BaseJudge):
        name = "the base model"
        said, problem = of_base(asked, inquiry, model, options, base)
    else:
        name = f"{opinion.model} at {opinion.url}"
        said, problem = of_endpoint(asked, opinion)
    problem = problem or unreadable(inquiry, said)
    read = [inquiry.stance(text) for text in said]
    count = len(rows["base"])
    Opinion(judge=name, problem=problem, base=read[:count], aligned=read[count:]).write(out)
    logger.info("%s: %s", name, problem or f"{sum(map(bool, read))} of {len(read)} opinions")


def main() -> None:
    """Run the stage: `python -m tasks.judge BASE DATASET ANSWERS OUT`."""
    arguments = paths(judge)
    params = Params.load()
    judge(params.evaluate.judge, params.model, params.answers, *arguments)


if __name__ == "__main__":
    run(main)
