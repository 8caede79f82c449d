"""The base model: a miniature made here, a model in a folder, or one from the Hugging Face Hub.

Writes `base.json`, which says what the model is down to the hash of every file, and `fingerprint.json`, which
says how it reads conversations. The weights of a Hub or folder model stay where they are, and
`stance.models.base.locate` finds them. Whatever can rule a model out is checked before they are fetched.
"""

import sys
from pathlib import Path
from typing import Any

from stance.config.models import FolderBase, HubBase, MiniatureBase
from stance.config.params import Params
from stance.data.questions import read_questions
from stance.errors import run
from stance.machine.files import digest, write_json
from stance.models.base import MODEL, Base, Device, from_folder, from_hub, read_fingerprint


def base(
    options: HubBase | FolderBase | MiniatureBase,
    system_prompt: str,
    seed: int,
    dataset: Path,
    out: Path,
    device: Device = "cpu",
) -> None:
    """Write what the base model is, and how it reads conversations, to `out`.

    Args:
        options: Where the model comes from.
        system_prompt: What the miniature is trained with.
        seed: For the miniature.
        dataset: `data/dataset`; the miniature learns from its training questions.
        out: `data/base`.
        device: Where the model will run; on a CPU it has to fit into memory.

    Raises:
        InputError: The model cannot be had, is not whole, is no chat model, or does not fit.
    """
    out.mkdir(parents=True, exist_ok=True)
    match options:
        case MiniatureBase():
            record, reads = _miniature(options, system_prompt, seed, dataset, out / MODEL)
        case FolderBase():
            record, reads = from_folder(options, device)
        case HubBase():
            record, reads = from_hub(options, device)
    record.write(out)
    write_json(out / "fingerprint.json", reads)


def _miniature(
    options: MiniatureBase, system_prompt: str, seed: int, dataset: Path, folder: Path
) -> tuple[Base, dict[str, Any]]:
    from stance.training.miniature import build

    build(read_questions(dataset), options, system_prompt, seed, folder)
    contents = {path.name: digest(path) for path in sorted(folder.iterdir())}
    return Base(source="miniature", files=contents), read_fingerprint(folder, str(folder))


def main() -> None:
    """Run as `python -m tasks.base data/dataset data/base`."""
    params = Params.load()
    dataset, out = map(Path, sys.argv[1:])
    base(params.base, params.model.system_prompt, params.seed, dataset, out, params.model.device)


if __name__ == "__main__":
    run(main)
