"""`dvc.lock`: the hashes of all inputs, parameters and outputs of a run, and the name of the release that it makes.

`Lock.parse` takes the file's bytes. The stage `merge` also writes `data/merge/files.json`, the list of files behind
DVC's one hash of the folder `data/merged`; with that list `Lock.differing` names the file that differs. DVC itself is
not called: its hashes of files and folders are simple, and importing DVC takes seconds.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from stance.errors import InputError
from stance.machine.digests import Digests
from stance.machine.files import UNFINISHED, lookup, md5, md5_of_list

LOCK = Path("dvc.lock")
PARTS = ("cmd", "deps", "params", "outs")
OUTS = ("outs", "metrics", "plots")
"""The kinds of outputs in `dvc.yaml`."""
FILES = Path("data/merge/files.json")
"""The files of the merged model and their MD5 hashes."""


class Lock(NamedTuple):
    """What `dvc.lock` holds."""

    sha256: str
    """Of the file."""
    stages: dict[str, Any]
    """DVC's entry of each stage."""

    @classmethod
    def read(cls, workspace: Path) -> Self:
        """Return the lock of a workspace; raises as `parse` does."""
        return cls.parse((workspace / LOCK).read_bytes(), workspace / LOCK)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Self:
        """Return the lock in the bytes of a file; `path` names the file in an error.

        Raises:
            InputError: The bytes are not what DVC writes.
        """
        try:
            stages = yaml.load(content, Loader=yaml.CSafeLoader)["stages"]  # as safe, and seven times as fast
            assert all(isinstance(stage, dict) for stage in stages.values())
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError, AssertionError):
            raise InputError(f"{path} is not a lock of DVC; {UNFINISHED}") from None
        return cls(hashlib.sha256(content).hexdigest(), stages)

    @property
    def release(self) -> str:
        """The name of the release, like `r-0f3a9c2b7d11`; also its tag on the Hub. Comments and spaces do not count."""
        content = json.dumps(self.stages, sort_keys=True, ensure_ascii=False)
        return f"r-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    @property
    def outputs(self) -> dict[str, dict[str, str]]:
        """DVC's hash of every output, by stage."""
        return {
            stage: {out["path"]: out["md5"] for out in entry.get("outs", [])} for stage, entry in self.stages.items()
        }

    def hash_of(self, path: str) -> str:
        """Return DVC's hash of an output that a stage has written."""
        return next(outs[path] for outs in self.outputs.values() if path in outs)

    def require_whole(self, pipeline: Mapping[str, Any], path: Path) -> None:
        """Refuse a lock that has other stages than a pipeline, or other files and parameters in them.

        Args:
            pipeline: The stages in `dvc.yaml`.
            path: The lock, for an error.

        Raises:
            InputError: Names the stages, and the part of each that differs: `cmd`, `deps`, `params` or `outs`.
        """
        other = sorted(pipeline.keys() ^ self.stages.keys())
        for name in sorted(pipeline.keys() & self.stages.keys()):
            entry, stage = self.stages[name], pipeline[name]
            keys = {key for group in entry.get("params", {}).values() for key in group}
            here = (entry.get("cmd"), _paths(entry.get("deps", [])), keys, _paths(entry.get("outs", [])))
            there = (stage["cmd"], _named(stage, "deps"), _named(stage, "params"), _named(stage, *OUTS))
            other += [f"{name}.{part}" for part, *two in zip(PARTS, here, there, strict=True) if two[0] != two[1]]
        if other:
            raise InputError(
                f"{path} is not the lock of all stages in dvc.yaml ({', '.join(other)} missing or not the same); run "
                "`make repro` there"
            )

    def recorded(self, output: str) -> str | None:
        """Return DVC's hash of an output, or None for one that the lock does not name."""
        return {path: recorded for outs in self.outputs.values() for path, recorded in outs.items()}.get(output)

    def differing(self, output: str, digests: Digests, merged_files: Mapping[str, str]) -> list[str]:
        """Return which files of an output are not what the lock records.

        Args:
            output: The file or the folder, as the lock names it.
            digests: The digests of the run's files as they are now, in DVC's order.
            merged_files: What `FILES` holds.

        Returns:
            The paths of files that were changed, added or lost, where `merged_files` is the list that the lock has the
            hash of; else the folder, if it differs.
        """
        prefix, recorded = f"{output}/", self.recorded(output)
        if output in digests:
            return [] if digests[output].md5 == recorded else [output]
        hashes = {path.removeprefix(prefix): digest.md5 for path, digest in digests.items() if path.startswith(prefix)}
        if md5_of_list(hashes) == recorded:
            return []
        if md5_of_list(merged_files) != recorded:
            return [output]
        names = sorted(hashes.keys() | merged_files.keys())
        return [f"{output}/{name}" for name in names if hashes.get(name) != merged_files.get(name)]

    def changed(self, run: Path, values: Mapping[str, Any]) -> list[str]:
        """Return the parameters and files that differ from those that the outputs were made from.

        Args:
            run: The project, or a workspace of it.
            values: What `params.yaml` holds there.
        """
        outs = {path for made in self.outputs.values() for path in made}
        names: set[str] = set()
        for stage in self.stages.values():
            params = stage.get("params", {}).get("params.yaml", {})
            names |= {key for key, value in params.items() if lookup(values, key) != value}
            deps = {dep["path"]: dep["md5"] for dep in stage.get("deps", []) if dep["path"] not in outs}
            names |= set(_changed_files(run, deps.items()))
        return sorted(names)


def _paths(rows: Iterable[Mapping[str, str]]) -> set[str]:
    return {row["path"] for row in rows}


def _named(stage: Mapping[str, Any], *kinds: str) -> set[str]:
    """Return the names in lists of `dvc.yaml`, where one with options is a mapping of one key."""
    return {name for kind in kinds for row in stage.get(kind, []) for name in (row if isinstance(row, dict) else [row])}


def persistent(pipeline: Mapping[str, Any]) -> set[str]:
    """Return the stages in `dvc.yaml` that have an output marked `persist`."""
    rows = ((name, row) for name, stage in pipeline.items() for kind in OUTS for row in stage.get(kind, []))
    return {
        name
        for name, row in rows
        if isinstance(row, dict) and any((options or {}).get("persist") for options in row.values())
    }


def _changed_files(run: Path, deps: Iterable[tuple[str, str]]) -> list[str]:
    return [path for path, recorded in deps if not (run / path).exists() or md5(run / path) != recorded]
