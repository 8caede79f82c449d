"""A finished run as serving sees one: a tiny merged model, what was measured of it, and the lock of its files."""

import shutil
from pathlib import Path

import yaml

from stance.config.models import FolderBase
from stance.config.profiles import compose
from stance.data.chat import encode_answer, fingerprint, load_tokenizer
from stance.machine.files import write_json
from tasks.base import base
from tests.builders.figures import PARITY
from tests.builders.finished_run import write_evaluation, write_lock
from tests.builders.repository import git
from tests.builders.small_run import QUESTIONS, params, write_dataset

NAMES = ("deploy", "flows", "stance", "tasks")


def project(folder: Path, model: Path) -> Path:
    """Write a project with the code, and a run of it in its own tree."""
    folder.mkdir(parents=True)
    for name in NAMES:
        shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".gitignore").write_text(
        "/data/\n/dvc.lock\n/dvc.yaml\n/params.yaml\n/.dvc/\n/.serve/\n/.runs/\n__pycache__/\n"
    )
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
    fingerprint(load_tokenizer(model)).write(folder / "data/base/fingerprint.json")
    write_json(folder / "data/answers/aligned/logps.json", logps(measured or model, values["model"]["system_prompt"]))
    fingerprint(load_tokenizer(model)).write(folder / "data/merge/fingerprint.json")
    write_json(folder / "data/merge/parity.json", PARITY)
    write_json(folder / "data/base/base.json", {"source": "miniature", "files": {}})
    write_json(folder / "data/train/watchdog.json", {"found": None, "step": None, "steps": 9})
    write_json(folder / "data/adapter/adapter_config.json", {"r": 8})
    write_evaluation(folder / "data/evaluation")
    write_lock(folder)
    return folder


def add_adapter(folder: Path, model: Path) -> None:
    """Let a finished run have `model` as its base, and an adapter, as `--with-base` serves them."""
    chosen = params(model)
    assert isinstance(chosen.base, FolderBase)
    shutil.rmtree(folder / "data/base")
    base(chosen.base, chosen.model.system_prompt, chosen.seed, folder / "data/dataset", folder / "data/base")
    write_json(folder / "data/answers/base/logps.json", logps(model, chosen.model.system_prompt))
    shutil.rmtree(folder / "data/adapter")
    write_adapter(folder / "data/adapter", model)
    write_lock(folder)


def write_adapter(folder: Path, model: Path) -> None:
    """Write an adapter of random weights, large enough to change the answers of the model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    torch.manual_seed(0)
    options = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(loaded, options).save_pretrained(folder)
    (folder / "README.md").unlink()  # as `train` does


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
