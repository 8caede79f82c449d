"""Fetch the data set: copies of its two files, from a local folder or from a git repository at one commit.

JSON files are copied unchanged; JSON Lines, CSV and parquet become JSON.
The schema is checked before anything is written, so other stages can rely on it.
"""

import logging
import shutil
from pathlib import Path

from stance.config.data import FolderDataset, GitDataset
from stance.config.params import Params
from stance.data.questions import LABELLED, PROBES, TEST, Prompt, read_both, read_probes, table_in_json, unused_columns
from stance.data.side_effects import (
    RETAINED,
    RETAINED_SOURCE,
    SIDE_EFFECTS,
    read_if_any,
    read_side_folder,
    require_unasked,
    rows_of,
)
from stance.data.sources import source_folder
from stance.errors import InputError, paths, run
from stance.machine.files import from_project, write_json

logger = logging.getLogger(__name__)


def dataset(source: FolderDataset | GitDataset, out: Path) -> None:
    """Copy the two files of `source`, its probes, and the prompts that show side effects to `out`.

    Of probes or prompts that the parameters do not name, an empty list is written.

    Raises:
        InputError: The source cannot be read, its hashes differ from the parameters, a row violates the schema, or a
            prompt is retained and asked.
        Unreachable: The git server does not answer.
    """
    if isinstance(source, FolderDataset) and out.resolve() == from_project(source.path).resolve():
        raise InputError(f"{out} is the data set itself, which a copy would overwrite; name another folder")
    with source_folder(source) as folder:
        questions, prompts = read_both(folder)
        probes_file = from_project(source.probes) if source.probes else None
        probes = read_probes(probes_file) if probes_file else []
        beside = from_project(source.side_effects) if source.side_effects else None
        asides = read_side_folder(beside, source.topic) if beside else []
        retained = read_if_any(beside / RETAINED_SOURCE, Prompt) if beside else []
        require_unasked(retained, (*asides, *probes, *prompts))
        out.mkdir(parents=True, exist_ok=True)
        for name in (LABELLED, TEST):
            (out / name).write_bytes(table_in_json(folder, name))
        for sentence in unused_columns(folder):
            logger.info("%s", sentence)
    if probes_file:
        shutil.copyfile(probes_file, out / PROBES)
    else:
        (out / PROBES).write_text("[]\n", encoding="utf-8")
    write_json(out / SIDE_EFFECTS, rows_of(asides))
    write_json(out / RETAINED, rows_of(retained))
    logger.info(
        "%d training questions, %d test prompts and %d probes in %s", len(questions), len(prompts), len(probes), out
    )


def main() -> None:
    """Run the stage: `python -m tasks.dataset OUT`."""
    arguments = paths(dataset)
    dataset(Params.load().dataset, *arguments)


if __name__ == "__main__":
    run(main)
