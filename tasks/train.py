"""Train the adapter that is merged: by Direct Preference Optimization (arXiv 2305.18290), or hand on that of `rl`.

DPO begins with the base, or with the adapter or the whole model of a fine-tuning, which is then its reference. On the
road of reinforcement learning (`align.method: rlhf`) the stage `rl` has trained the adapter, and this stage takes it
over with its curves. So every run has its adapter and the log of its training in one place. With `model.devices` above
1 the stage starts a process per device (`stance.training.parallel`).
"""

from pathlib import Path

from stance.config.models import Model
from stance.config.params import Params
from stance.config.training import Train
from stance.data.handover import hand_over
from stance.errors import paths, run


def train(
    model: Model,
    options: Train,
    seed: int,
    base: Path,
    pairs: Path,
    answered: Path,
    tuned: Path,
    reinforced: Path,
    adapter: Path,
    out: Path,
    checkpoints: Path,
) -> None:
    """Train on the pairs in a folder; write the adapter to `adapter`, and the log of the training to `out`.

    Args:
        model: How the base is loaded.
        options: The block `train`.
        seed: For adapter initialisation, dropout and the order of the pairs.
        base: `data/base`.
        pairs: `data/pairs`; `train.jsonl` and `retained.jsonl` are read.
        answered: Folder with the base model's answers to the unrelated prompts; only `train.max_drift` reads them.
        tuned: `data/sft`; if it has an adapter, the training goes on with it, and a copy of it is the reference; if it
            has a model, a new adapter is trained on that.
        reinforced: `data/rl`; if the stage `rl` was on the road, its adapter is taken over, and nothing is trained.
        adapter: Receives the adapter in PEFT's format, and nothing else.
        out: Receives `log.csv`, one row per optimiser step under TRL's metric names; `metrics.json`, its last row, with
            the drift that `train.max_drift` bounds; `watchdog.json`, whether the watchdog or that bound stopped the
            training, and why; and `joint.json`, whether it began where the stages before had ended.
        checkpoints: Folder for the checkpoints of all runs; those of this run are removed once the adapter is saved.

    Raises:
        InputError: The device is missing, the model lacks a layer of `target_modules`, the tokenizer reads the probes
            differently from when `base` was made, or the first checkpoint is above `train.max_drift` already.
    """
    if (reinforced / "rl.json").exists():
        hand_over(reinforced, adapter, out)
        return
    from stance.training import parallel  # torch takes seconds to import

    if parallel.spread("tasks.train", model):
        return
    from stance.training.preference_training import prefer  # TRL and PEFT take further seconds

    with parallel.writing(adapter, out) as (own_adapter, own_out):
        prefer(model, options, seed, base, pairs, answered, tuned, own_adapter, own_out, checkpoints)


def main() -> None:
    """Run the stage: `python -m tasks.train BASE PAIRS ANSWERED TUNED REINFORCED ADAPTER OUT CHECKPOINTS`."""
    arguments = paths(train)
    params = Params.load()
    train(params.model, params.train, params.seed, *arguments)


if __name__ == "__main__":
    run(main)
