"""Supervised fine-tuning: teach the base to answer as the chosen answers do, before it learns to prefer them.

The stage is the first of the three steps of RLHF (arXiv 2203.02155). It trains the LoRA adapter that `train` or `rl`
goes on with, or, with `sft.method: full`, all weights, which they begin from. It trains on the answers alone: the
questions are masked. It sees the questions of `data/pairs/train.jsonl`, never
those that are held out. Without the block `sft`, or with `sft.num_epoch: 0`, it leaves a note, and the next stage
starts from the base.
"""

from pathlib import Path

from stance.config.models import Model
from stance.config.params import Params
from stance.config.training import Sft, Train
from stance.data.road import leave_out
from stance.errors import paths, run
from stance.machine.files import from_project


def sft(model: Model, options: Sft | None, shape: Train, seed: int, base: Path, pairs: Path, out: Path) -> None:
    """Fine-tune, and write the adapter or the model, the record, the log and the answers' log-probabilities.

    Args:
        model: How the base is loaded.
        options: The block `sft`; None leaves the fine-tuning out.
        shape: The block `train`: the adapter's shape, the sizes of batches and rows.
        seed: For the adapter's first weights and the order of the rows.
        base: `data/base`.
        pairs: `data/pairs`.
        out: Receives `sft.json`, `adapter/` or `model/`, `log.csv` and `logps.json`; or a note.

    Raises:
        InputError: The device is missing, a text holds a control token, a row is too long or cannot be masked, or the
            model lacks a layer of `target_modules`.
    """
    if not options or not options.num_epoch:
        leave_out(out)
        return
    from stance.training.fine_tuning import fine_tune  # torch, TRL and PEFT take seconds to import

    conversations = from_project(Path(options.conversations)) if options.conversations else None
    fine_tune(model, options, shape, seed, base, pairs, conversations, out)


def main() -> None:
    """Run the stage: `python -m tasks.sft BASE PAIRS OUT`."""
    arguments = paths(sft)
    params = Params.load()
    sft(params.model, params.sft, params.train, params.seed, *arguments)


if __name__ == "__main__":
    run(main)
