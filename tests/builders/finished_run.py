"""A finished run without a model: folders as the stages leave them, small and filled with made-up bytes."""

import hashlib
import json
import random
from pathlib import Path

import yaml

from stance.config.profiles import compose
from stance.data.records import Gate, write_gates
from stance.language.messages import message
from stance.machine.files import write_json
from stance.runs.finished import OUTPUTS
from tests.builders import repository
from tests.builders.figures import FINGERPRINT, NO_PROBES, PARITY, figures


def passed(name: str) -> Gate:
    """Return a gate that is passed."""
    figure, bound, advice = (message("problem", problem=text) for text in ("drift 0.002", "at most 0.05", "none"))
    return Gate(name=name, passed=True, figure=figure, bound=bound, advice=advice)


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
    write_lock(folder)
    values = compose("miniature")
    values["hub"] |= {"push": True, "adapter_repo_id": "team/adapter", "merged_repo_id": "team/merged"}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    repository.git(folder, "init", "--quiet")
    repository.git(folder, "add", "--all")
    repository.git(folder, "commit", "--quiet", "--message", "run")
    return folder


def write_lock(folder: Path) -> None:
    """Let DVC take the outputs as they are."""
    stages = {Path(out).stem: {"cmd": f"make {out}", "outs": [out]} for out in OUTPUTS}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    lock = {
        name: {
            "cmd": stage["cmd"],
            "outs": [{"path": out, "hash": "md5", "md5": md5(folder / out)} for out in stage["outs"]],
        }
        for name, stage in stages.items()
    }
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))


def md5(path: Path) -> str:
    """DVC's hash of a file, or of a folder without folders in it."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    rows = [{"md5": md5(file), "relpath": file.name} for file in sorted(path.iterdir())]
    return hashlib.md5(json.dumps(rows).encode()).hexdigest() + ".dir"


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
    adherence = {"stance": "support", "mixed": False, **HALF}
    write_json(folder / "metrics.json", figures(adherence=adherence, probes=probes))
    write_gates(folder / "gates.json", [passed("parity")])
    write_json(folder / "responses.json", [response(1, "好看。"), response(2, "a | b <script>\n# c")])


def response(ident: int, after: str) -> dict[str, object]:
    row = {"id": ident, "prompt": f"好看嗎（{ident}）？", "response_from_original_model": "不一定。"}
    return json.loads(json.dumps(row)) | {"response_from_trained_model": after}
