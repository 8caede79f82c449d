"""Are the files of a run those that its `dvc.lock` names? A release is called after it, and must be what it says.

DVC itself is not asked: a stage or a task does without it, and its two kinds of hash are simple. Of a folder it records
one hash, that of a list; the stage `merge` keeps the list of its own, so that a file of another run can be named.
"""

from collections.abc import Iterable
from pathlib import Path

from stance.errors import InputError
from stance.machine.files import lookup, md5, md5_of_file, md5_of_files, md5_of_list, read_json, read_yaml

FILES = Path("data/merge/files.json")
"""The files of the merged model and their hashes."""


def refuse_other_files(run: Path, names: Iterable[str]) -> None:
    """Refuse a run one of whose outputs was changed, or exchanged, since its stage wrote it.

    Args:
        run: The project, or a workspace of it.
        names: Outputs, files or folders, as `dvc.lock` names them.

    Raises:
        InputError: An output is missing, is not what the lock says, or is not named by it.
    """
    names = list(names)
    if missing := [name for name in names if not (run / name).exists()]:
        raise InputError(f"{run / missing[0]} does not exist; expected a finished run: `make repro` first")
    if other := other_files(run, names):
        raise InputError(
            f"{', '.join(other)} in {run} differ from what dvc.lock names; run `make repro` there, or `dvc checkout` "
            "to have them back as they were"
        )


def other_files(run: Path, names: Iterable[str]) -> list[str]:
    """Return what is missing or not what `dvc.lock` names, among these outputs.

    Of the merged model it is the files that differ; of another folder the folder.
    """
    recorded = {path: known for outs in outputs(run).values() for path, known in outs.items()}
    return [path for name in names for path in _others(run, name, recorded.get(name, ""))]


def _others(run: Path, name: str, recorded: str) -> list[str]:
    path = run / name
    if not path.is_dir():
        return [] if path.exists() and md5_of_file(path) == recorded else [name]
    found = md5_of_files(path)
    if md5_of_list(found) == recorded:
        return []
    known = read_json(run / FILES) if (run / FILES).exists() else {}
    if md5_of_list(known) != recorded:
        return [name]
    return [f"{name}/{file}" for file in sorted(found.keys() | known.keys()) if found.get(file) != known.get(file)]


def outputs(run: Path) -> dict[str, dict[str, str]]:
    """Return DVC's hash of every output that `dvc.lock` names, by its stage."""
    stages = read_yaml(run / "dvc.lock")["stages"]
    return {stage: {out["path"]: out["md5"] for out in known.get("outs", [])} for stage, known in stages.items()}


def changed(run: Path) -> list[str]:
    """Return the parameters and files that are not what `dvc.lock` says the outputs were made from."""
    params, found = read_yaml(run / "params.yaml"), set()
    outs = {path for made in outputs(run).values() for path in made}
    for stage in read_yaml(run / "dvc.lock")["stages"].values():
        wanted = stage.get("params", {}).get("params.yaml", {})
        found |= {key for key, value in wanted.items() if lookup(params, key) != value}
        deps = {dep["path"]: dep["md5"] for dep in stage.get("deps", []) if dep["path"] not in outs}
        found |= {path for path, known in deps.items() if not (run / path).exists() or md5(run / path) != known}
    return sorted(found)
