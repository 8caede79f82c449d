"""`FinishedRun`: all that a release, a push, an endpoint or a model card needs of a run, read once and handed on.

`FinishedRun.read` opens the small files of a run and keeps their bytes, so that the checked bytes are also those that
are published. `FinishedRun.hashed` reads the large files, each once, for every digest that is used later: MD5 for
`dvc.lock`, SHA-256 and git's blob id for the Hub. From then on the stat values of a file tell whether it is unchanged;
only a file that was written, replaced or linked since is read again.

A release with approval and push thus reads the weights twice: here, and in the engine that serves them. The Hub's
client, which reads what it sends, is told the SHA-256 and does not hash again; its reading is not counted here, nor is
a copy of the weights to another disk, where `data/release` cannot link them.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from stance.config.params import Params
from stance.data.answers import RESPONSES, Response, parse_responses
from stance.data.chat import Fingerprint
from stance.data.metrics import METRICS, Metrics
from stance.data.records import GATES, Gate, parse_gates
from stance.data.training import Parity
from stance.errors import InputError
from stance.machine.digests import Digests, digests
from stance.machine.files import UNFINISHED, parse_record, parse_yaml, read_output
from stance.models.base import Base
from stance.runs.lockfile import FILES, LOCK, Lock

HASHES = TypeAdapter(dict[str, str])
PARAMS = Path("params.yaml")
TEST_PROMPTS = Path("data/dataset/test_prompt.json")
BASE, BASE_FINGERPRINT = Path("data/base/base.json"), Path("data/base/fingerprint.json")
FINGERPRINT, PARITY = Path("data/merge/fingerprint.json"), Path("data/merge/parity.json")
SMALL = (PARAMS, LOCK, GATES, METRICS, RESPONSES, TEST_PROMPTS, BASE, BASE_FINGERPRINT, FINGERPRINT, PARITY)
"""The small files of a finished run."""
ADAPTER, MERGED = "data/adapter", "data/merged"
MODELS = (ADAPTER, MERGED)
"""The folders with weights."""
EVALUATION = tuple(path.as_posix() for path in (METRICS, RESPONSES, GATES))
OUTPUTS = (*MODELS, *EVALUATION)
"""The outputs that a release is made from, as `dvc.lock` names them."""


@dataclass(frozen=True)
class FinishedRun:
    """A run with every stage finished."""

    folder: Path
    """The project, or a workspace of it."""
    contents: dict[Path, bytes]
    """The files of `SMALL`, and `lockfile.FILES` if there is one."""
    values: dict[str, Any]
    """What `params.yaml` holds."""
    params: Params
    lock: Lock
    changed: list[str]
    """The parameters and files that differ from those that the model was made from."""
    gates: list[Gate]
    responses: list[Response]
    base: Base
    digests: Digests
    """Of every file in the folders that `hashed` was asked for, by its path in `folder`."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the run in a folder, without the digests of its weights.

        Raises:
            InputError: The run is not finished, or an earlier version of this project made it.
        """
        if not (folder / MERGED).exists():
            raise InputError(f"{folder / MERGED} does not exist; {UNFINISHED}")
        contents = {path: read_output(folder / path) for path in SMALL}
        if (folder / FILES).exists():
            contents[FILES] = read_output(folder / FILES)
        values = parse_yaml(contents[PARAMS], folder / PARAMS)
        lock = Lock.parse(contents[LOCK], folder / LOCK)
        return cls(
            folder=folder,
            contents=contents,
            values=values,
            params=Params.parse(values, str(folder / PARAMS)),
            lock=lock,
            changed=lock.changed(folder, values),
            gates=parse_gates(contents[GATES], folder / GATES),
            responses=parse_responses(contents[RESPONSES], folder / RESPONSES),
            base=_base(contents[BASE], folder / BASE),
            digests={},
        )

    def hashed(self, models: Iterable[str] = MODELS, earlier: Digests | None = None) -> Self:
        """Return the run with the digests of all files in some of its `MODELS`.

        Args:
            models: The folders.
            earlier: Digests that were taken before. A file whose stat values are still the same is not read again.

        Raises:
            InputError: A folder is missing or empty, or a file goes on changing while it is read.
        """
        taken = digests(self.folder, models, self.digests if earlier is None else earlier)
        if lost := [name for name in models if not any(path.startswith(f"{name}/") for path in taken)]:
            state = "holds no files" if (self.folder / lost[0]).exists() else "does not exist"
            raise InputError(f"{self.folder / lost[0]} {state}; {UNFINISHED}")
        return replace(self, digests=taken)

    def differing(self, outputs: Iterable[str] = OUTPUTS) -> list[str]:
        """Return which of some outputs are not what `dvc.lock` records; of the merged model, which files."""
        return [path for output in outputs for path in self._differing(output)]

    def _differing(self, output: str) -> list[str]:
        if (content := self.contents.get(Path(output))) is not None:
            return [] if _md5(content) == self.lock.recorded(output) else [output]
        return self.lock.differing(output, self.digests, self._merged_files())

    def _merged_files(self) -> dict[str, str]:
        """Return the MD5 of every file of the merged model; nothing if an earlier version made the run."""
        content = self.contents.get(FILES)
        return {} if content is None else parse_record(HASHES, content, self.folder / FILES)

    def require_as_recorded(self, outputs: Iterable[str] = OUTPUTS) -> None:
        """Refuse outputs that were changed or exchanged since their stages wrote them.

        Raises:
            InputError: An output is not what `dvc.lock` records, or is not named there.
        """
        if other := self.differing(outputs):
            raise InputError(
                f"{', '.join(other)} in {self.folder} differ from what dvc.lock records; run `make repro` there, or "
                "`dvc checkout` to restore them"
            )

    @property
    def name(self) -> str:
        """The name of the workspace, or of the project's folder."""
        return self.folder.resolve().name

    @property
    def release(self) -> str:
        """The name of the release that the run makes, like `r-0f3a9c2b7d11`."""
        return self.lock.release

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
    def parity(self) -> Parity:
        """How far the merged model's log-probabilities are from the adapter's."""
        return Parity.parse(self.contents[PARITY], self.folder / PARITY)

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
