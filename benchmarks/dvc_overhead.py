"""What DVC itself costs in a run of Breeze's size: the real `dvc.yaml`, whose commands only write files as large.

    python -m benchmarks.dvc_overhead OUT.json [--gib 14]

Every stage's command is replaced by one that writes its outputs - 14 GiB of merged weights, an adapter of 0.1 GiB,
small files - and says how long that took. What is left of `dvc repro` is DVC's own time, the one hash of the merged
model included; that hash alone is measured beside it, with DVC's own function. Then nothing has changed, and then
`support_ratio` has.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from dvc_data.hashfile.hash import file_md5
from dvc_objects.fs.local import LocalFileSystem

from stance.machine.files import write_json
from stance.machine.memory import GIB

SHARDS, ADAPTER = 4, 109 * 2**20
WRITE = """
import os, sys, time
began = time.monotonic()
path, size = sys.argv[1], int(sys.argv[2])
os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
block = os.urandom(2**23).hex().encode()  # text, since DVC refuses binary metrics
with open(path, "wb") as file:
    for start in range(0, size, len(block)):
        file.write(b"%016x" % start + block[16 : size - start])
print(f"wrote {time.monotonic() - began:.3f}")
"""


def copy_project(folder: Path) -> None:
    """Copy what DVC reads into a new git repository."""
    for name in (
        "stance",
        "tasks",
        "data/sources",
        ".dvc/config",
        ".dvcignore",
        ".gitignore",
        "dvc.yaml",
        "params.yaml",
    ):
        copy = shutil.copytree if Path(name).is_dir() else shutil.copyfile
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(name, folder / name)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


def write_only(folder: Path, gib: float) -> None:
    """Replace the command of each stage by one that only writes the outputs."""
    (folder / "write.py").write_text(WRITE, encoding="utf-8")
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
    for stage in pipeline["stages"].values():
        outs = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
        paths = [out if isinstance(out, str) else next(iter(out)) for out in outs]
        stage["cmd"] = [f"{sys.executable} write.py {path} {size}" for out in paths for path, size in files(out, gib)]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")


def files(out: str, gib: float) -> list[tuple[str, int]]:
    """Return the files that stand for an output, with their bytes."""
    if out == "data/merged":
        return [(f"{out}/model-{number}.safetensors", int(gib * GIB / SHARDS)) for number in range(SHARDS)]
    if out == "data/adapter":
        return [(f"{out}/adapter_model.safetensors", ADAPTER)]
    if out == "data/dataset":
        return [(f"{out}/labelled_data.json", 9000), (f"{out}/test_prompt.json", 1000)]
    if out in ("data/base", "data/pairs"):
        return [(f"{out}/{name}", 9000) for name in ("base.json", "fingerprint.json", "train.jsonl", "eval.jsonl")]
    return [(out, 9000)]


def repro(folder: Path) -> dict[str, Any]:
    """Run `dvc repro` and return its seconds, and those of the commands in it."""
    began = time.monotonic()
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", "repro"]
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=sys.stderr, check=True
    )
    seconds = time.monotonic() - began
    written = [float(seconds) for seconds in re.findall(r"^wrote ([\d.]+)$", done.stdout, re.MULTILINE)]
    ran = len(re.findall(r"^Running stage", done.stdout, re.MULTILINE))
    return {"seconds": seconds, "commands": sum(written), "dvc": seconds - sum(written), "stages_run": ran}


def hash_seconds(folder: Path) -> float:
    """Return how long DVC's hash of the merged model takes."""
    began = time.monotonic()
    for path in sorted((folder / "data/merged").iterdir()):
        file_md5(str(path), LocalFileSystem())
    return time.monotonic() - began


def main() -> None:
    """Measure, print, and write the JSON that the command line names."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("out", type=Path)
    ask.add_argument("--gib", type=float, default=14.0)
    options = ask.parse_args()
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy_project(folder)
        write_only(folder, options.gib)
        result = {"first": repro(folder), "hash_of_merged": hash_seconds(folder), "unchanged": repro(folder)}
        params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        params["pairs"]["support_ratio"] = 0.5
        (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        result["another_ratio"] = repro(folder)
    write_json(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
