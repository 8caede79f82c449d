"""What can be known to fail is said within seconds, before a download or a training begins.

`make repro` and every flow run it first. It looks at parameters against data, and at what the model needs here.
"""

import filecmp
import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.dataset import source_folder
from tasks.errors import InputError, run
from tasks.pairs import split
from tasks.params import FolderBase, FolderDataset, GitDataset, MiniatureBase, Params, read_yaml
from tasks.questions import LABELLED, TEST, Prompt, Question, read_prompts, read_questions

logger = logging.getLogger(__name__)


def preflight(params: Params, dataset: Path, base: Path) -> None:
    """Check the parameters against the data and the machine.

    Args:
        params: All of them.
        dataset: `data/dataset`, which spares a git source its network when it is already the one configured.
        base: `data/base`, which spares the Hub in the same way.

    Raises:
        InputError: A stage would fail later; says what, and what to do.
    """
    questions, prompts = read_data(params, dataset)
    split(questions, params.pairs.data_size)
    check_model(params, questions, base)
    logger.info("parameters fit the data: %d questions, %d test prompts", len(questions), len(prompts))


def read_data(params: Params, dataset: Path) -> tuple[list[Question], list[Prompt]]:
    """Return the configured data set, from where it is configured to come from."""
    source = params.dataset
    if isinstance(source, GitDataset) and _is_here(source, dataset):
        return read_questions(dataset), read_prompts(dataset)
    with source_folder(source) as folder:
        questions, prompts = read_questions(folder), read_prompts(folder)
        if isinstance(source, FolderDataset):
            _check_seen_by_dvc(source, dataset)
    return questions, prompts


def check_model(params: Params, questions: Sequence[Question], base: Path) -> None:
    """Check that the device is there, that a base in a local folder is a chat model, and that the run fits here."""
    if params.model.device == "cuda":
        from tasks.model import require_device  # torch, two seconds that a CPU profile need not wait

        require_device(params.model)
    if isinstance(params.base, FolderBase):
        from tasks.chat import load_tokenizer

        load_tokenizer(params.base.path)
    if not isinstance(params.base, MiniatureBase):
        from tasks import fit

        size = fit.sizes(fit.configuration(params.base, base), params.train)
        fit.check(params, size, fit.longest(questions, params.model.system_prompt), fit.available(params.model.device))


def _is_here(source: GitDataset, dataset: Path) -> bool:
    expected = {LABELLED: source.labelled_data_sha256, TEST: source.test_prompt_sha256}
    return all(_sha256(dataset / name) == sha256 for name, sha256 in expected.items())


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _check_seen_by_dvc(source: FolderDataset, dataset: Path) -> None:
    """DVC watches `data/sources`; an edit to a folder elsewhere would go unnoticed."""
    if source.path.resolve().is_relative_to(Path("data/sources").resolve()) or not _was_copied(source):
        return
    for name in (LABELLED, TEST):
        if (dataset / name).exists() and not filecmp.cmp(source.path / name, dataset / name, shallow=False):
            raise InputError(
                f"{source.path / name} is no longer what {dataset / name} was copied from, and DVC watches only "
                "data/sources; run `dvc repro -s -f dataset`, or keep the folder in data/sources"
            )


def _was_copied(source: FolderDataset, lock: Path = Path("dvc.lock")) -> bool:
    """Is `source` what the stage last ran with? Otherwise DVC runs it again by itself."""
    if not lock.exists():
        return False
    stage = read_yaml(lock)["stages"].get("dataset", {})
    return bool(stage.get("params", {}).get("params.yaml", {}).get("dataset") == source.model_dump(mode="json"))


def main() -> None:
    """Run the check: `python -m tasks.preflight`."""
    preflight(Params.load(), *map(Path, sys.argv[1:] or ["data/dataset", "data/base"]))


if __name__ == "__main__":
    run(main)
