"""Stages of the pipeline in forks of one process: each has torch and vLLM without the ten seconds that they take."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stance.inference.environment import ENVIRONMENT, ONE_PROCESS
from tests.doubles.hub_jobs import ROOT, Ended, jobs

PREPARE = "import runpy; from vllm import LLM; import datasets, peft, scipy.stats, sklearn, trl.trainer.dpo_trainer"
Stage = Callable[[str, Path], Ended]


@contextmanager
def forked_stages() -> Iterator[Stage]:
    """Run commands of `dvc.yaml`, as `tasks/python -m tasks.judge ...`, in a folder; `out` and `err` are left there."""
    with jobs({**os.environ, **ENVIRONMENT, **ONE_PROCESS, "PYTHONPATH": str(ROOT)}, PREPARE) as job:

        def stage(command: str, folder: Path) -> Ended:
            _, _, module, *arguments = command.split()
            argv = [module, *arguments]
            return job(f"sys.argv = {argv}; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)", folder)

        yield stage
