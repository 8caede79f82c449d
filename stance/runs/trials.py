"""Try the adapters of several runs in one engine: `python -m stance.runs.trials {answer,judge} WORKSPACE ...`.

In: workspaces of runs whose base, data and engine are the same, each with a trained adapter. Out: in each workspace
what its adapter answers, in the form of `data/answers`, and a record of what that shows (`stance.data.trial`).

The engine starts once. For each adapter it gets the weights that a merge would write, straight from the files of the
base: nothing is written, and it computes at full speed, where a LoRA adapter beside the base costs time for each token.
The answers of the base come from the stage `answers_base`, which DVC runs once for all runs of a grid.
"""

import argparse
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from torch import Tensor

from stance.config.params import Params
from stance.data.answers import read_answers
from stance.data.chat import load_tokenizer
from stance.data.likelihoods import read_logps
from stance.data.noise import MERGED, UNMEASURED, Floor
from stance.data.preferences import read_pairs
from stance.data.training import Parity
from stance.data.trial import FOLDER, Trial
from stance.errors import run
from stance.evaluation.fitted import Classifier, judged, read_classifier
from stance.evaluation.measures import adherence, served_drift, shares
from stance.evaluation.side_effects import read_side_effects
from stance.inference.batch import engine_for, exchange, generate
from stance.inference.exam import Exam
from stance.models.base import locate_tuned
from stance.models.loading import require_device
from stance.training.merging import candidates, read_weights, stored_names, update

logger = logging.getLogger(__name__)


def answer(workspaces: Sequence[Path]) -> None:
    """Write what the adapter of each run answers, from one engine, which is that of the first run.

    Raises:
        InputError: The device is missing, a file cannot be read, or the model and its cache do not fit into memory.
    """
    first, params = workspaces[0] / "data", Params.load(workspaces[0] / "params.yaml")
    model, options = params.model, params.answers
    require_device(model)
    base = locate_tuned(first / "base", first / "sft")
    exam = Exam(load_tokenizer(base), first / "dataset", model.system_prompt, options.max_new_tokens, is_base=False)
    batch = exam.requests()
    engine = engine_for(base, model, options, batch)
    for number, workspace in enumerate(workspaces, start=1):
        logger.info("adapter %d of %d: %s", number, len(workspaces), workspace.name)
        exchange(engine, weights_with(base, workspace / "data/adapter", params))
        exam.write(generate(engine, batch), workspace / FOLDER / "aligned.jsonl", workspace / FOLDER / "aligned")


def judge(workspaces: Sequence[Path]) -> None:
    """Write what the answers of each run's adapter show, by the classifier of the first run.

    This is no work for the process of the engine: a classifier that reads hidden states needs the memory of the model.

    Raises:
        InputError: A file is missing or in another format.
    """
    first, params = workspaces[0] / "data", Params.load(workspaces[0] / "params.yaml")
    taught = read_classifier(first / "classifier", first / "base", params.model.device)
    for workspace in workspaces:
        trial_of(workspace, taught).write(workspace)


def weights_with(base: Path, adapter: Path, params: Params) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a merge by their names: into the dequantized base, unless the merge may not use that.

    Raises:
        InputError: As in `candidates` and `update`.
    """
    change = update(candidates(params.model, params.merge)[-1], base, adapter)
    for name, weight in read_weights(base, stored_names(base), params.model.device):
        yield name, change(name, weight)


def trial_of(workspace: Path, taught: Classifier) -> Trial:
    """Return what the answers of a run's adapter show."""
    data, answers = workspace / "data", workspace / FOLDER
    shutil.copytree(data / "answers/base", answers / "base", dirs_exist_ok=True)
    verdicts = judged(taught, read_answers(answers / "aligned.jsonl"))
    ratio = fmean(pair.preferred == "support" for pair in read_pairs(data / "pairs/train.jsonl"))
    held, bounds = adherence(verdicts, ratio), Params.load(workspace / "params.yaml").evaluate.side_effects
    side_effects, _ = read_side_effects(taught, data / "dataset", answers, held.stance, bounds)
    return Trial(aligned=shares(verdicts), adherence=held, side_effects=side_effects)


def against_merged(workspace: Path) -> Trial:
    """Return the trial of a complete run with the distance of its merged model, and write it.

    Both are scores of vLLM. The bound is that between the trained and the merged model, because `merge.base: measured`
    may take the published weights where the trial took the dequantized ones, if both are as near to the trained model.

    Raises:
        InputError: A file is missing or in another format.
    """
    tried, served = (read_logps(workspace / folder / "aligned/logps.json") for folder in (FOLDER, "data/answers"))
    floor = Parity.read(workspace / "data/merge/parity.json").floor or UNMEASURED
    mean, worst = floor.bounds(MERGED)
    drift, bounds = served_drift(tried, served), Floor(mean=mean, worst=worst)
    trial = Trial.read(workspace).model_copy(update={"merged": drift, "bounds": bounds})
    trial.write(workspace)
    return trial


STEPS: Mapping[str, Callable[[Sequence[Path]], None]] = {"answer": answer, "judge": judge}


def main() -> None:
    """Answer for the adapters of the runs whose workspaces the command line names, or judge these answers."""
    ask = argparse.ArgumentParser(prog="python -m stance.runs.trials", description=main.__doc__)
    ask.add_argument("step", choices=STEPS)
    ask.add_argument("workspace", type=Path, nargs="+")
    options = ask.parse_args()
    STEPS[options.step](options.workspace)


if __name__ == "__main__":
    run(main)
