"""Try the adapters of several runs in one engine: `python -m stance.runs.trials answer WORKSPACE ...`.

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

from safetensors import safe_open
from torch import Tensor

from stance.config.params import Params
from stance.data.answers import read_answers
from stance.data.chat import load_tokenizer
from stance.data.likelihoods import read_logps
from stance.data.noise import MERGED, SERVED, UNMEASURED, Floor
from stance.data.preferences import read_pairs
from stance.data.training import Parity
from stance.data.trial import FOLDER, PROBLEM, Trial
from stance.errors import InputError, run
from stance.evaluation.fitted import Classifier, judged, read_classifier
from stance.evaluation.measures import adherence, served_drift, shares
from stance.evaluation.side_effects import read_side_effects
from stance.inference.batch import engine_for, exchange, generate
from stance.inference.exam import Exam
from stance.models.base import locate_tuned
from stance.models.loading import require_device
from stance.runs.finished import ADAPTER
from stance.runs.lockfile import Lock
from stance.training.merging import Update, candidates, shards, stored_names, update

logger = logging.getLogger(__name__)


def answer(workspaces: Sequence[Path]) -> None:
    """Write what the adapter of each run answers, from one engine, which is that of the first run.

    A run whose adapter cannot be merged gets a sentence instead, `PROBLEM`, and the others go on.

    Raises:
        InputError: The device is missing, a file cannot be read, or the model and its cache do not fit into memory.
    """
    first, params = workspaces[0] / "data", Params.load(workspaces[0] / "params.yaml")
    model, options = params.model, params.answers
    require_device(model)
    base = locate_tuned(first / "base", first / "sft")
    if not (changes := sound_changes(workspaces, base)):
        return
    exam = Exam(load_tokenizer(base), first / "dataset", model.system_prompt, options.max_new_tokens, is_base=False)
    batch = exam.requests()
    engine = engine_for(base, model, options, batch)
    for number, (workspace, change) in enumerate(changes.items(), start=1):
        logger.info("adapter %d of %d: %s", number, len(changes), workspace.name)
        exchange(engine, changed(base, change, model.device))
        exam.write(generate(engine, batch), workspace / FOLDER / "aligned.jsonl", workspace / FOLDER / "aligned")


def sound_changes(workspaces: Sequence[Path], base: Path) -> dict[Path, Update]:
    """Return how each run's adapter changes the weights of the base; write `PROBLEM` for an adapter that has faults."""
    changes, names = {}, stored_names(base)
    for workspace in workspaces:
        (workspace / FOLDER).mkdir(parents=True, exist_ok=True)
        (workspace / PROBLEM).unlink(missing_ok=True)
        try:
            changes[workspace] = update(base_of(workspace), base, workspace / ADAPTER)
            if lost := sorted(changes[workspace].factors.keys() - names):
                raise InputError(f"the adapter changes {lost[0]}, and {base} has no weight of that name")
        except InputError as error:
            changes.pop(workspace, None)
            (workspace / PROBLEM).write_text(str(error), encoding="utf-8")
    return changes


def base_of(workspace: Path) -> str:
    """Return the name of the weights that a run's adapter is tried on: `dequantized`, if its merge may take these.

    Raises:
        InputError: As in `candidates`.
    """
    params = Params.load(workspace / "params.yaml")
    return candidates(params.model, params.merge)[-1]


def changed(base: Path, change: Update, device: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and the changed weights of a model folder, in the order of its files.

    vLLM joins the weights of a layer once it has them all. In another order, many layers would wait in memory.
    """
    for shard in shards(base):
        with safe_open(base / shard, framework="pt", device=device) as file:
            for name in file.offset_keys():
                yield name, change(name, file.get_tensor(name))


def judge(workspaces: Sequence[Path]) -> None:
    """Write what the answers of each run's adapter show, by the classifier of the first run.

    A classifier that reads hidden states loads the base. So this is not done beside the engine.

    Raises:
        InputError: A file is missing or in another format.
    """
    first, params = workspaces[0] / "data", Params.load(workspaces[0] / "params.yaml")
    taught = read_classifier(first / "classifier", first / "base", params.model.device)
    for workspace in workspaces:
        if not (workspace / PROBLEM).exists():
            trial_of(workspace, taught).write(workspace)


def trial_of(workspace: Path, taught: Classifier) -> Trial:
    """Return what the answers of a run's adapter show."""
    data, answers = workspace / "data", workspace / FOLDER
    shutil.copytree(data / "answers/base", answers / "base", copy_function=shutil.copyfile, dirs_exist_ok=True)
    verdicts = judged(taught, read_answers(answers / "aligned.jsonl"))
    ratio = fmean(pair.preferred == "support" for pair in read_pairs(data / "pairs/train.jsonl"))
    held, bounds = adherence(verdicts, ratio), Params.load(workspace / "params.yaml").evaluate.side_effects
    side_effects, _ = read_side_effects(taught, data / "dataset", answers, held.stance, bounds)
    return Trial(
        adapter=Lock.read(workspace).hash_of(ADAPTER),
        base=base_of(workspace),
        aligned=shares(verdicts),
        adherence=held,
        side_effects=side_effects,
    )


def compare(workspaces: Sequence[Path]) -> None:
    """Write to the trial of each run, which is complete, how far its merged model is from it.

    Raises:
        InputError: A file is missing or in another format.
    """
    for workspace in workspaces:
        against_merged(workspace).write(workspace)


def against_merged(workspace: Path) -> Trial:
    """Return the trial of a complete run with the distance of its merged model; raises as `compare` does.

    Both are scores of vLLM. On the same weights they are two roundings apart. Where the merge took other weights than
    the trial, each of the two is up to three roundings away from the trained model.
    """
    tried, served = (read_logps(workspace / folder / "aligned/logps.json") for folder in (FOLDER, "data/answers"))
    trial, parity = Trial.read(workspace), Parity.read(workspace / "data/merge/parity.json")
    roundings = SERVED if parity.base == trial.base else 2 * MERGED
    mean, worst = (parity.floor or UNMEASURED).bounds(roundings)
    return trial.model_copy(update={"merged": served_drift(tried, served), "bounds": Floor(mean=mean, worst=worst)})


STEPS: Mapping[str, Callable[[Sequence[Path]], None]] = {"answer": answer, "judge": judge, "compare": compare}


def main() -> None:
    """Do a step of the trials for the runs whose workspaces the command line names."""
    ask = argparse.ArgumentParser(prog="python -m stance.runs.trials", description=main.__doc__)
    ask.add_argument("step", choices=STEPS)
    ask.add_argument("workspace", type=Path, nargs="+")
    options = ask.parse_args()
    STEPS[options.step](options.workspace)


if __name__ == "__main__":
    run(main)
