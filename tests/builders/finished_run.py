"""A finished run without a model: folders as the stages leave them, small and filled with made-up bytes."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from stance.config.params import Params
from stance.config.profiles import compose
from stance.data.chat import Fingerprint
from stance.data.metrics import Metrics
from stance.data.records import Gate, write_gates
from stance.data.training import Parity, Watchdog
from stance.evaluation.gates import gates_of
from stance.machine.files import md5, write_json
from stance.runs import dvc_record
from tests.builders import repository
from tests.builders.figures import FINGERPRINT, NO_PROBES, PARITY, figures

OUTPUTS = (
    "data/adapter", "data/answers", "data/base", "data/dataset", "data/evaluation/gates.json",
    "data/evaluation/metrics.json", "data/evaluation/responses.json", "data/merge/files.json",
    "data/merge/fingerprint.json", "data/merge/logps.json", "data/merge/parity.json", "data/merged", "data/pairs",
    "data/train/watchdog.json",
)  # fmt: skip
"""What stages write, as far as a run has it."""
HALF = {"share": 0.5, "low": 0.1, "high": 0.9, "count": 1, "total": 2}


def write_run(folder: Path, seed: str = "abc") -> Path:
    """Write the run and commit it; another seed makes another release, with other weights."""
    write_weights(folder, seed)
    write_evaluation(folder / "data/evaluation")
    write_json(
        folder / "data/base/base.json", {"source": "hub", "repo_id": "team/base", "revision": "1" * 40, "files": {}}
    )
    write_json(folder / "data/base/fingerprint.json", FINGERPRINT)
    write_json(folder / "data/dataset/test_prompt.json", [{"id": 1, "prompt": "好看嗎（1）？"}])
    write_json(folder / "data/merge/parity.json", PARITY)
    write_json(folder / "data/train/watchdog.json", {"found": None, "step": None, "steps": 9})
    values = compose("miniature")
    values["hub"] |= {"push": True, "adapter_repo_id": "team/adapter", "merged_repo_id": "team/merged"}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    write_lock(folder)
    repository.git(folder, "init", "--quiet")
    repository.git(folder, "add", "--all")
    repository.git(folder, "commit", "--quiet", "--message", "run")
    return folder


def write_lock(
    folder: Path,
    *,
    judge: bool = True,
    deps: Mapping[str, list[str]] = MappingProxyType({}),
    params: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> None:
    """Let DVC take the outputs as they are, by a stage for each, and judge their figures anew.

    Args:
        folder: The run.
        judge: Whether `gates.json` is written anew.
        deps: The files that a stage depends on, by its name.
        params: The parameters that a stage reads, by its name.
    """
    if judge:
        write_gates(folder / "data/evaluation/gates.json", computed_gates(folder))
    stages: dict[str, Any] = {}
    entries: dict[str, Any] = {}
    for out in sorted(path for path in OUTPUTS if (folder / path).exists()):
        name = out.removeprefix("data/").replace("/", "_")
        stages[name], entries[name] = {"cmd": f"make {out}", "outs": [out]}, {"cmd": f"make {out}"}
        if name in deps:
            stages[name]["deps"], entries[name]["deps"] = deps[name], hashed(folder, deps[name])
        if name in params:
            stages[name]["params"], entries[name]["params"] = list(params[name]), {"params.yaml": params[name]}
        entries[name]["outs"] = hashed(folder, [out])
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": entries}))
    for entry in entries.values():
        recorded = dvc_record.cache(folder) / "runs" / dvc_record.place(entry)
        recorded.parent.mkdir(parents=True, exist_ok=True)
        recorded.write_text(yaml.safe_dump(entry))


def hashed(folder: Path, paths: list[str]) -> list[dict[str, str]]:
    """Return files and folders with their hashes, as `dvc.lock` has them."""
    return [{"path": path, "hash": "md5", "md5": md5(folder / path)} for path in paths]


def make_another_release(folder: Path) -> None:
    """Exchange the weights, and let DVC take them."""
    write_weights(folder, "another")
    write_lock(folder)


def computed_gates(folder: Path) -> list[Gate]:
    """Return the gates that the figures of the run give."""
    data = folder / "data"
    return gates_of(
        Params.load(folder / "params.yaml"),
        Metrics.parse((data / "evaluation/metrics.json").read_bytes(), data),
        Fingerprint.read(data / "base/fingerprint.json"),
        Fingerprint.read(data / "merge/fingerprint.json"),
        Parity.read(data / "merge/parity.json"),
        Watchdog.read(data / "train/watchdog.json"),
    )


def write_weights(folder: Path, seed: str) -> None:
    for name, size in (
        ("adapter/adapter_model", 70_000),
        ("merged/model-1-of-2", 300_000),
        ("merged/model-2-of-2", 900),
    ):
        path = folder / "data" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(f"{name} {seed}").randbytes(size))
    write_json(folder / "data/adapter/adapter_config.json", {"base_model_name_or_path": "/home/someone/base", "r": 8})
    write_json(folder / "data/merged/config.json", {"model_type": "mistral"})
    write_json(folder / "data/merged/tokenizer.json", {"version": "1.0"})
    (folder / "data/merged/chat_template.jinja").write_text("{{ messages }}")
    write_json(folder / "data/merge/fingerprint.json", FINGERPRINT)


def write_evaluation(folder: Path) -> None:
    probes = {
        "paraphrase": NO_PROBES | {"count": 2, "held": HALF},
        "unrelated": NO_PROBES | {"count": 2, "kept": HALF},
        "neighbour": NO_PROBES,
    }
    write_json(folder / "metrics.json", figures(probes=probes))
    write_json(folder / "responses.json", [response(1, "好看。"), response(2, "a | b <script>\n# c")])


def response(ident: int, after: str) -> dict[str, object]:
    row = {"id": ident, "prompt": f"好看嗎（{ident}）？", "response_from_original_model": "不一定。"}
    return json.loads(json.dumps(row)) | {"response_from_trained_model": after}
