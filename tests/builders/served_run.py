"""A finished run as serving sees one: a tiny merged model, what was measured of it, and the lock of its files."""

import json
import shutil
from pathlib import Path

import yaml

from stance.config.profiles import compose
from stance.data.chat import encode_answer, fingerprint, load_tokenizer
from stance.data.records import Gate, write_gates
from stance.language.messages import message
from stance.machine.files import md5, write_json
from tests.builders.finished_run import write_evaluation
from tests.builders.repository import git
from tests.builders.small_run import QUESTIONS, write_dataset

NAMES = ("deploy", "flows", "stance", "tasks")
GATE = Gate(
    name="adherence",
    passed=True,
    figure=message("share_of_stance", stance="support", share=1.0, low=0.8, high=1.0),
    bound=message("at_least_share", share=0.8),
    advice=message("longer_training"),
)


def project(folder: Path, model: Path) -> Path:
    """Write a project with the code, and a run of it in its own tree."""
    folder.mkdir(parents=True)
    for name in NAMES:
        shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / ".gitignore").write_text("/data/\n/.serve/\n/.runs/\n__pycache__/\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "project")
    return finished(folder, model)


def finished(folder: Path, model: Path, measured: Path | None = None) -> Path:
    """Write a run that has made `model`, and measured it, or another one."""
    values = compose("miniature", {"answers.max_new_tokens": 12})
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    shutil.copytree(model, folder / "data/merged")
    write_dataset(folder / "data/dataset")
    write_json(folder / "data/base/fingerprint.json", fingerprint(load_tokenizer(model)))
    write_json(folder / "data/answers/aligned/logps.json", logps(measured or model, values["model"]["system_prompt"]))
    write_json(folder / "data/merge/fingerprint.json", fingerprint(load_tokenizer(model)))
    write_json(folder / "data/merge/parity.json", {"base": "original", "mean": 0.002, "worst": 0.1, "tokens": 99})
    write_json(folder / "data/base/base.json", {"source": "miniature", "files": {}})
    write_evaluation(folder / "data/evaluation")
    write_gates(folder / "data/evaluation/gates.json", [GATE])
    lock(folder)
    return folder


def lock(folder: Path) -> None:
    """Let `dvc.lock` name the files of the merged model as they are."""
    outs = [{"path": "data/merged", "md5": md5(folder / "data/merged")}]
    (folder / "dvc.lock").write_text(json.dumps({"stages": {"merge": {"outs": outs}}}))


def logps(model: Path, system_prompt: str) -> dict[int, dict[str, list[float]]]:
    """Return what a model gives the answers, by transformers."""
    from stance.data.chat import conversation
    from stance.models.loading import load
    from stance.models.parity import score

    tokenizer = load_tokenizer(model)
    texts = [
        encode_answer(tokenizer, conversation(system_prompt, str(row["prompt"])), str(row[side]))
        for row in QUESTIONS
        for side in ("support", "oppose")
    ]
    found = [scores.logps for scores in score(load(model, "cpu"), texts)]
    pairs = zip(found[::2], found[1::2], strict=True)
    return {
        int(row["id"]): {"support": support, "oppose": oppose}
        for row, (support, oppose) in zip(QUESTIONS, pairs, strict=True)
    }


def another(model: Path, folder: Path, seed: int = 1) -> Path:
    """Write a model of the same shape and tokenizer with other weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(model, folder)
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.bfloat16).save_pretrained(folder)
    return folder
