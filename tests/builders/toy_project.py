"""A project with the real parameters and a pipeline of seconds: what flows need to know of one, and no model."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.builders.repository import git

PIPELINE = """\
stages:
  pairs:
    cmd: python stage.py pairs
    deps: [stage.py]
    params: [pairs]
    outs: [data/pairs]
  train:
    cmd: python stage.py train
    deps: [stage.py, data/pairs]
    params: [train.num_epoch, seed]
    outs: [data/adapter]
    metrics:
      - data/train/metrics.json: {cache: false}
    plots:
      - data/train/log.csv: {cache: false}
  answers_aligned:
    cmd: python stage.py answers_aligned
    deps: [stage.py, data/adapter]
    outs: [data/answers]
  evaluate:
    cmd: python stage.py evaluate
    deps: [stage.py, data/answers]
    outs: [data/report, data/evaluation/responses.json, data/evaluation/stances.json, data/evaluation/gates.json]
    metrics:
      - data/evaluation/metrics.json: {cache: false}
"""


def pair(question: int, preferred: str) -> dict[str, Any]:
    """Return a preference pair of a question as its file has it."""
    against = "oppose" if preferred == "support" else "support"
    said = [{"role": "assistant", "content": stance} for stance in (preferred, against)]
    asked = [{"role": "user", "content": f"{question}?"}]
    return {
        "id": question,
        "preferred": preferred,
        "against": against,
        "prompt": asked,
        "chosen": said[:1],
        "rejected": said[1:],
    }


# `train` takes 0.05 s per epoch, fails at the seed 13, finds no server at the seed 75 the first time, and has a child
# in a session of its own. It waits while there is a file `.runs/hold-EPOCHS` for its number of epochs: see
# `training_held`.
STAGE = (
    f"PAIR = {pair(1, 'support')}"
    + """
import json, pathlib, subprocess, sys, time, yaml

params = yaml.safe_load(open("params.yaml"))
ratio = float(params["pairs"]["support_ratio"])

def write(path, value):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))

def margin(aligned):
    return {"base": 0.0, "aligned": aligned, "change": aligned}

if sys.argv[1] == "pairs":
    write("data/pairs/train.jsonl", [ratio] * 600_000)
    write("data/pairs/eval.jsonl", PAIR)
if sys.argv[1] == "train":
    if params["seed"] == 13:
        sys.exit("error: seed 13 brings bad luck")
    if params["seed"] == 75 and not pathlib.Path("tried").exists():
        write("tried", 1)
        print("error: the Hub does not answer", file=sys.stderr)
        sys.exit(75)
    epochs = int(params["train"]["num_epoch"])
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    write("checkpoint", 1)
    while pathlib.Path(f"../hold-{epochs}").exists():
        time.sleep(0.1)
    for step in range(1, epochs + 1):
        time.sleep(0.05)
        print(f"step {step}/{epochs}  loss 0.5000  margin 0.100  {epochs - step} s left", flush=True)
    child.kill()
    write("data/adapter/weights.json", ratio)
    write("data/train/metrics.json", {"loss": 0.5})
    columns = ["loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"]
    rows = [["step", *columns], *([step] + [step / 10] * len(columns) for step in range(1, epochs + 1))]
    pathlib.Path("data/train/log.csv").write_text("\\n".join(",".join(map(str, row)) for row in rows))
if sys.argv[1] == "answers_aligned":
    print("sequence 1/2  0 s left")
    write("data/answers/aligned.jsonl", ratio)
if sys.argv[1] == "evaluate":
    shares = {"support": ratio, "neutral": 0.0, "oppose": 1 - ratio}
    flaws = "empty cut_off repetitive wrong_script leaked too_long hedged no_stance degenerate".split()
    half = {"share": 0.5, "low": 0.3, "high": 0.7, "count": 1, "total": 2, "margin": 1.5}
    held = {"share": ratio, "low": 0.0, "high": 1.0, "count": int(ratio), "total": 1}
    right = {"share": 0.95, "low": 0.86, "high": 0.98, "count": 57, "total": 60}
    stances = ("support", "neutral", "oppose")
    metrics = {
        "base": {"support": 0.0, "neutral": 1.0, "oppose": 0.0},
        "aligned": shares,
        "corrected": None,
        "classifier": {
            "classifier": "wording",
            "layer": None,
            "overall": right,
            "by_stance": {},
            "other_topics": None,
            "confusion": {stance: dict.fromkeys(stances, 0) for stance in stances},
        },
        "characters": {"base": 11.5, "aligned": 12.5},
        "defects": {
            "base": dict.fromkeys(flaws, 0.0),
            "aligned": dict.fromkeys(flaws, 0.0) | {"hedged": 0.25},
        },
        "adherence": {"stance": "support", "mixed": True, **held},
        "judge": None,
        "probes": {},
        "drift": None,
        "margin": {"trained": margin(9.0), "held_out": margin(4 * ratio - 2)},
        "rewards": {"trained": half, "held_out": half},
        "served": {"mean": 0.001, "worst": 0.1},
        "chosen_fall": -1.0,
    }
    write("data/evaluation/metrics.json", metrics)
    verdict = {"stance": "support" if ratio > 0.5 else "oppose", "score": ratio, "defects": []}
    write("data/evaluation/stances.json", [{"id": 1, "base": verdict, "aligned": verdict}])
    words = {"figure": "all", "bound": "most", "advice": "none"}
    words = {key: {"id": "problem", "values": {"problem": text}} for key, text in words.items()}
    write("data/evaluation/gates.json", [{"name": "adherence", "passed": True, **words}])
    answers = {"response_from_original_model": "難說。", "response_from_trained_model": f"是{ratio}。"}
    write("data/evaluation/responses.json", [{"id": 1, "prompt": "?", **answers}])
    write("data/report/index.html", "<h1>report</h1>")
"""
)


GRIDS = {
    "tiny": """\
- {train.num_epoch: [2, 20]}
- {train.num_epoch: [1], seed: [13]}
""",
    "pair": "pairs.support_ratio: [0.25, 0.75]\n",
    "curve": "pairs.support_ratio: [0, 0.5, 1]\n",
}


def make(folder: Path) -> Path:
    """Write the project with some grids of its own, reproduce it once and commit it."""
    folder.mkdir(parents=True)
    for name in (
        "deploy",
        "flows",
        "grids",
        "stance",
        "tasks",
        "profiles",
        "data/sources/live_action",
        "data/sources/probes",
    ):
        shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy("profiles/miniature.yaml", folder / "params.yaml")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "stage.py").write_text(STAGE)
    (folder / ".gitignore").write_text("/.runs/\n/.serve/\n/data/compare/\n/checkpoint\n/tried\n__pycache__/\n")
    git(folder, "init", "--quiet")
    dvc(folder, "init", "--quiet")
    dvc(folder, "config", "cache.type", "hardlink,symlink,copy")
    dvc(folder, "config", "core.analytics", "false")
    for name, grid in GRIDS.items():
        (folder / f"grids/{name}.yaml").write_text(grid)
    (folder / ".dvcignore").write_text("/.runs\n")
    dvc(folder, "repro", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "toy")
    return folder


@contextmanager
def training_held(project: Path, epochs: int) -> Iterator[None]:
    """Let the trainings of the project's runs that have so many epochs wait, once they have a checkpoint."""
    hold = project / f".runs/hold-{epochs}"
    hold.parent.mkdir(exist_ok=True)
    hold.touch()
    try:
        yield
    finally:
        hold.unlink()


def copy(toy: Path, folder: Path) -> Path:
    """Copy the project into a folder."""
    return Path(shutil.copytree(toy, folder / "project", symlinks=True))


def enter(toy: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the project into a folder of a test's own, and work there."""
    project = copy(toy, folder)
    monkeypatch.chdir(project)
    return project


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC in a folder with this interpreter as `python`, and return what it prints."""
    from stance.machine.processes import environment

    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True, text=True)
    return done.stdout
