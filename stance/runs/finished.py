"""`FinishedRun`: a run whose files were checked, read once and handed on.

A push, a release, an endpoint and a model card take nothing else, so that there is one list of files and one list of
checks. `FinishedRun.read` refuses a run

* that is not finished, or whose `dvc.lock` lacks a stage of `dvc.yaml`, or is not the one that DVC left;
* whose parameters, code or data were changed after the run;
* with an output that is no plain file, or is not what `dvc.lock` records: every output of every stage;
* with a file beside the weights that no model needs;
* whose gates are not those that its measurements give.

It does not refuse a run that misses a gate: `stance.data.records.require` does.

The small files are opened once and their bytes are kept, so that the checked bytes are also those that are published.
The large files are read once for every digest that is used later: MD5 for `dvc.lock`, SHA-256 and git's blob id for the
Hub. From then on the stat values of a file tell whether it is unchanged; only a file that was written, replaced or
linked since is read again.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from stance.config.params import Params
from stance.data.answers import RESPONSES, Response, parse_responses
from stance.data.chat import Fingerprint
from stance.data.metrics import METRICS, Metrics
from stance.data.records import GATES, Gate, parse_gates
from stance.data.training import Parity, Watchdog
from stance.errors import InputError
from stance.evaluation.gates import gates_of
from stance.machine.digests import Digests, digests
from stance.machine.files import UNFINISHED, parse_record, parse_yaml, read_output
from stance.machine.plain import require_own_names, require_plain
from stance.models.base import SMALL as SMALL_OF_A_MODEL
from stance.models.base import WEIGHTS, Base
from stance.runs import dvc_record
from stance.runs.lockfile import FILES, LOCK, Lock, persistent

HASHES = TypeAdapter(dict[str, str])
PARAMS, PIPELINE = Path("params.yaml"), Path("dvc.yaml")
TEST_PROMPTS = Path("data/dataset/test_prompt.json")
BASE, BASE_FINGERPRINT = Path("data/base/base.json"), Path("data/base/fingerprint.json")
FINGERPRINT, PARITY = Path("data/merge/fingerprint.json"), Path("data/merge/parity.json")
WATCHDOG = Path("data/train/watchdog.json")
SMALL = (
    PARAMS, PIPELINE, LOCK, GATES, METRICS, RESPONSES, TEST_PROMPTS, BASE, BASE_FINGERPRINT, FINGERPRINT, PARITY,
    WATCHDOG,
)  # fmt: skip
"""The small files of a finished run."""
ADAPTER, MERGED = "data/adapter", "data/merged"
MODELS = (MERGED, ADAPTER)
"""The folders with weights."""
NEEDED = {
    MERGED: re.compile(f"{SMALL_OF_A_MODEL.pattern}|{WEIGHTS.pattern}"),
    ADAPTER: re.compile(r"adapter_config\.json|adapter_model\.safetensors"),
}
"""The names of the files that a model of either kind needs; no others are released."""
RECORDED = [path.as_posix() for path in SMALL if path not in (PARAMS, PIPELINE, LOCK)]
"""The small files that a stage writes."""


@dataclass(frozen=True)
class FinishedRun:
    """A run with every stage finished, and every file as its stages left it. Only `read` makes one."""

    folder: Path
    """The project, or a workspace of it."""
    contents: dict[Path, bytes]
    """The files of `SMALL`, and `lockfile.FILES` if there is one."""
    values: dict[str, Any]
    """What `params.yaml` holds."""
    params: Params
    lock: Lock
    gates: list[Gate]
    responses: list[Response]
    base: Base
    digests: Digests
    """Of every file of every output, by its path in `folder`."""

    @classmethod
    def read(cls, folder: Path, earlier: Digests | None = None) -> Self:
        """Return the run in a folder.

        Args:
            folder: The project, or a workspace of it.
            earlier: Digests that were taken before. A file whose stat values are still the same is not read again.

        Raises:
            InputError: The run is refused; names the file, or the value and what was expected.
        """
        _require_models(folder)
        contents = {path: read_output(folder / path) for path in SMALL}
        if (folder / FILES).exists():
            contents[FILES] = read_output(folder / FILES)
        values = parse_yaml(contents[PARAMS], folder / PARAMS)
        lock = Lock.parse(contents[LOCK], folder / LOCK)
        params = Params.parse(values, str(folder / PARAMS))
        gates = parse_gates(contents[GATES], folder / GATES)
        responses = parse_responses(contents[RESPONSES], folder / RESPONSES)
        base = _base(contents[BASE], folder / BASE)
        outputs = [output for outs in lock.outputs.values() for output in outs]
        lock.require_whole(parse_yaml(contents[PIPELINE], folder / PIPELINE)["stages"], folder / LOCK)
        require_plain(folder, outputs)
        taken = digests(folder, outputs, earlier or {})
        run = cls(folder, contents, values, params, lock, gates, responses, base, taken)
        run._require_unchanged()
        run._require_as_recorded(outputs)
        run._require_needed()
        run._require_left_by_dvc()
        require_own_names(folder, taken, dvc_record.cache(folder))
        run._require_computed_gates()
        return run

    def again(self) -> Self:
        """Return the run as it is now; only files that were touched since are read.

        Raises:
            InputError: The run is refused now, or is another one.
        """
        now = self.read(self.folder, self.digests)
        if now.release != self.release:
            raise InputError(f"{self.folder} held {self.release} and holds {now.release} now; start again")
        return now

    def _require_needed(self) -> None:
        paths = [
            f"{model}/{name}" for model in MODELS for name in self.files(model) if not NEEDED[model].fullmatch(name)
        ]
        if paths:
            raise InputError(
                f"{', '.join(paths)} in {self.folder} would be published, and no model needs such a file; move it out "
                "of there, and out of the folder of the base model, and run `make repro`"
            )

    def _require_unchanged(self) -> None:
        if changed := self.lock.changed(self.folder, self.values):
            raise InputError(
                f"{', '.join(changed)} in {self.folder} changed since the model was made; put back what was changed, "
                "or run `make repro` there"
            )

    def _require_as_recorded(self, outputs: Iterable[str]) -> None:
        content = self.contents.get(FILES)
        listed = {} if content is None else parse_record(HASHES, content, self.folder / FILES)
        other = [path for output in outputs for path in self.lock.differing(output, self.digests, listed)]
        for path, content in self.contents.items():
            if path.as_posix() in self.digests and self.digests[path.as_posix()].md5 != _md5(content):
                other.append(f"{path} (while it was read)")
        if other:
            raise InputError(
                f"{', '.join(dict.fromkeys(other))} in {self.folder} differ from what dvc.lock records; run "
                "`make repro` there, or `dvc checkout` to restore them"
            )
        if unnamed := [path for path in RECORDED if path not in self.digests]:
            raise InputError(
                f"{', '.join(unnamed)} in {self.folder} are in no output that dvc.lock records; run `make repro` there"
            )

    def _require_left_by_dvc(self) -> None:
        pipeline = parse_yaml(self.contents[PIPELINE], self.folder / PIPELINE)["stages"]
        if strange := dvc_record.unrecorded(self.folder, self.lock.stages, persistent(pipeline)):
            raise InputError(
                f"DVC has not made the entries of {', '.join(strange)} in {self.folder / LOCK}: its run cache has no "
                "such run; fetch it (`dvc fetch --run-cache`), or make the stages again there: `dvc repro -f`"
            )

    def _require_computed_gates(self) -> None:
        computed = gates_of(
            self.params, self.metrics, self.base_fingerprint, self.fingerprint, self.parity, self.watchdog
        )
        recorded = {gate.name: _json_of(gate) for gate in self.gates}
        names = {gate.name: gate for gate in computed}
        if other := [name for name in {**names, **recorded} if recorded.get(name) != _json_of(names.get(name))]:
            raise InputError(
                f"{self.folder / GATES} is not what the measurements give ({', '.join(other)} missing or not the same);"
                " run `dvc repro -s -f evaluate` there, or, if an earlier version of this project made the run, "
                "release it from a checkout of its own commit"
            )

    @property
    def name(self) -> str:
        """The name of the workspace, or of the project's folder."""
        return self.folder.resolve().name

    @property
    def release(self) -> str:
        """The name of the release that the run makes, like `r-0f3a9c2b7d11`."""
        return self.lock.release

    def files(self, output: str) -> Digests:
        """Return the digests of the files in an output folder, by path in it."""
        prefix = f"{output}/"
        return {path.removeprefix(prefix): found for path, found in self.digests.items() if path.startswith(prefix)}

    @cached_property
    def metrics(self) -> Metrics:
        """The figures of the evaluation."""
        return Metrics.parse(self.contents[METRICS], self.folder / METRICS)

    @cached_property
    def test_prompts(self) -> list[dict[str, Any]]:
        """The test prompts, as the data set has them."""
        return list(self._json(TEST_PROMPTS))

    @cached_property
    def base_fingerprint(self) -> Fingerprint:
        """How the base model's tokenizer reads the probe conversations."""
        return Fingerprint.parse(self.contents[BASE_FINGERPRINT], self.folder / BASE_FINGERPRINT)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """How the merged model's tokenizer reads the probe conversations."""
        return Fingerprint.parse(self.contents[FINGERPRINT], self.folder / FINGERPRINT)

    @cached_property
    def parity(self) -> Parity:
        """How far the merged model's log-probabilities are from the adapter's."""
        return Parity.parse(self.contents[PARITY], self.folder / PARITY)

    @cached_property
    def watchdog(self) -> Watchdog:
        """Whether the training was stopped."""
        return Watchdog.parse(self.contents[WATCHDOG], self.folder / WATCHDOG)

    def _json(self, path: Path) -> Any:
        try:
            return json.loads(self.contents[path])
        except ValueError as error:
            raise InputError(f"{self.folder / path} is not JSON ({error}); {UNFINISHED}") from None


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _base(content: bytes, path: Path) -> Base:
    try:
        return Base.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"{path} is not a record of a base model ({error.errors()[0]['msg']}); {UNFINISHED}") from None


def _json_of(gate: Gate | None) -> str | None:
    """Return a gate as its file has it; two that measured no number are equal then."""
    return json.dumps(gate.model_dump(mode="json")) if gate else None


def _require_models(folder: Path) -> None:
    for model in MODELS:
        if not (folder / model).exists():
            raise InputError(f"{folder / model} does not exist; {UNFINISHED}")
        if not any((folder / model).iterdir()):
            raise InputError(f"{folder / model} holds no files; {UNFINISHED}")
