"""Provide the base model: from a folder, the Hugging Face Hub or a Python package, or a miniature that is trained here.

The stage writes `base.json`, the origin of the model and the hash of every file, and `fingerprint.json`, the token ids
of a few probe conversations. The weights of a model from the Hub or a folder stay where they are; those in a package
are converted. `stance.models.base.locate` finds them. Every check that can refuse a model runs before its weights are
fetched.
"""

from pathlib import Path

from stance.config.models import FolderBase, HubBase, MiniatureBase, PackageBase
from stance.config.params import Params
from stance.data.chat import BREEZE_TOKENS, Fingerprint, refuse_control_tokens
from stance.data.questions import named_texts, read_questions
from stance.errors import paths, run
from stance.machine.files import digest
from stance.models.base import MODEL, Base, Device
from stance.models.intake import from_folder, from_hub, read_fingerprint
from stance.models.package import from_package


def base(
    options: HubBase | FolderBase | PackageBase | MiniatureBase,
    system_prompt: str,
    seed: int,
    dataset: Path,
    out: Path,
    device: Device = "cpu",
) -> None:
    """Write the record of the base model and its fingerprint to `out`.

    Args:
        options: Where the model comes from.
        system_prompt: The system prompt that the miniature is trained with.
        seed: Seed of the miniature's training.
        dataset: `data/dataset`; the miniature learns from its training questions.
        out: `data/base`.
        device: Where the model will run. On a CPU its weights must fit into memory.

    Raises:
        InputError: The model cannot be fetched, is incomplete, is no chat model, or does not fit into memory.
        Unreachable: The Hub does not answer.
    """
    out.mkdir(parents=True, exist_ok=True)
    match options:
        case MiniatureBase():
            record, fingerprint = _miniature(options, system_prompt, seed, dataset, out / MODEL)
        case FolderBase():
            record, fingerprint = from_folder(options, device)
        case PackageBase():
            record, fingerprint = from_package(options, device, out / MODEL)
        case HubBase():
            record, fingerprint = from_hub(options, device)
    record.write(out)
    fingerprint.write(out / "fingerprint.json")


def _miniature(
    options: MiniatureBase, system_prompt: str, seed: int, dataset: Path, folder: Path
) -> tuple[Base, Fingerprint]:
    from stance.training.miniature import build

    questions = read_questions(dataset)
    refuse_control_tokens(BREEZE_TOKENS, named_texts(questions), "the miniature")
    build(questions, options, system_prompt, seed, folder)
    contents = {path.name: digest(path) for path in sorted(folder.iterdir())}
    return Base(source="miniature", files=contents), read_fingerprint(folder, str(folder))


def main() -> None:
    """Run the stage: `python -m tasks.base DATASET OUT`."""
    dataset, out = paths(base)
    params = Params.load()
    base(params.base, params.model.system_prompt, params.seed, dataset, out, params.model.device)


if __name__ == "__main__":
    run(main)
