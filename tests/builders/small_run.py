"""A run small enough for a test: six questions, a tiny random model, the stages called as functions."""

import json
from pathlib import Path
from typing import Any

from stance.config.models import FolderBase
from stance.config.params import Params
from stance.config.profiles import compose
from stance.data.chat import load_tokenizer
from stance.models.loading import load
from tasks.base import base
from tasks.pairs import pairs
from tasks.sft import sft
from tasks.train import train

QUESTIONS = [
    {"id": n, "prompt": f"{aspect}會更好嗎？", "support": f"{aspect}會更上一層樓。", "oppose": f"{aspect}會大不如前。"}
    for n, aspect in enumerate(("配樂", "畫面", "角色", "劇情", "票房", "口碑"), start=1)
]
PROMPTS = [{"id": n, "prompt": f"{aspect}會進步嗎？"} for n, aspect in enumerate(("音效", "燈光", "剪輯"), start=1)]

PROBES = [
    {"id": 1, "kind": "paraphrase", "prompt": "聲音聽起來會更棒嗎？", "of": 1},
    {"id": 2, "kind": "unrelated", "prompt": "水幾度沸騰？", "answer": "攝氏一百度。"},
]


def params(model: Path, **overrides: Any) -> Params:
    """Return the miniature profile, made small, on a model folder; an override's `__` stands for the dot.

    The reference is computed in every step, in the batch of the policy, so that a first reward is exactly 0 where
    products of bf16 would round the same text differently in another batch.
    """
    small = {
        "pairs.data_size": 4,
        "pairs.support_ratio": 0.5,
        "train.num_epoch": 3,
        "train.r": 8,
        "train.global_batch_size": 2,
        "train.per_device_train_batch_size": 2,
        "train.save_steps": 2,
        "train.precompute_ref_log_probs": False,
        "answers.max_new_tokens": 12,
    }
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    values = compose("miniature", small | given) | {"base": {"source": "folder", "path": str(model)}}
    return Params.parse(values, "small run")


def sharpened(model: Path, folder: Path) -> Path:
    """Write a model with logits 12 times as far apart: the tiny one finds all tokens about equally likely."""
    sharp = load(model, "cpu")
    sharp.lm_head.weight.data.mul_(12)
    sharp.save_pretrained(folder)
    load_tokenizer(model).save_pretrained(folder)
    return folder


def write_dataset(folder: Path) -> Path:
    """Write the six questions and three test prompts."""
    folder.mkdir(parents=True)
    (folder / "labelled_data.json").write_text(json.dumps(QUESTIONS, ensure_ascii=False), encoding="utf-8")
    (folder / "test_prompt.json").write_text(json.dumps(PROMPTS, ensure_ascii=False), encoding="utf-8")
    (folder / "probes.json").write_text(json.dumps(PROBES, ensure_ascii=False), encoding="utf-8")
    return folder


def prepare(root: Path, chosen: Params) -> None:
    """Run everything up to the training in `root`."""
    assert isinstance(chosen.base, FolderBase)
    dataset = write_dataset(root / "dataset")
    base(chosen.base, chosen.model.system_prompt, chosen.seed, dataset, root / "base")
    nowhere = root / "unused"  # the rejected answers are the opposite ones
    pairs(chosen.pairs, chosen.model, chosen.seed, dataset, nowhere, root / "base", nowhere, root / "pairs")


def train_in(root: Path, chosen: Params, name: str = "adapter") -> Path:
    """Train in `root` and return the folder of the adapter."""
    tuned = root / f"{name}-sft"
    sft(chosen.model, chosen.sft, chosen.train, chosen.seed, root / "base", root / "pairs", tuned)
    reinforced = root / f"{name}-rl"  # left out
    folders = (
        root / "base", root / "pairs", root / "answered", tuned, reinforced,
        root / name, root / f"{name}-log", root / "checkpoints",
    )  # fmt: skip
    train(chosen.model, chosen.train, chosen.seed, *folders)
    return root / name


def merge_in(root: Path, chosen: Params, adapter: Path, tuned: str = "sft") -> None:
    """Merge an adapter in `root`; `tuned` names the folder of the fine-tuning, which may be missing."""
    from tasks.merge import merge  # torch, PEFT and bitsandbytes take seconds to import

    folders = (root / "base", root / tuned, adapter, root / "pairs", root / "merged", root / "merge")
    merge(chosen.model, chosen.merge, *folders)
