"""LLaMA-Factory's DPO under the stopwatch, with the settings of our stage: `python -m ... OUT.json MODEL PAIRS`.

It runs in LLaMA-Factory's own environment, in the folder that holds our `params.yaml`. It has no way to compute the
reference's log-probabilities in advance.
"""

import json
import sys
from importlib import import_module  # LLaMA-Factory's packages are none of ours
from pathlib import Path
from typing import Any

from benchmarks.peers.stopwatch import options, rows, start

SAME = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "per_device_train_batch_size",
    "gradient_accumulation_steps", "lora_alpha", "lora_dropout", "seed",
)  # fmt: skip
COLUMNS = {"prompt": "question", "system": "system", "chosen": "chosen", "rejected": "rejected"}


def write_data(pairs: Path, folder: Path) -> None:
    """Write the pairs and their description as LLaMA-Factory reads them."""
    folder.mkdir()
    texts = [
        {
            "system": row["prompt"][0]["content"],
            "question": row["prompt"][-1]["content"],
            "chosen": row["chosen"][0]["content"],
            "rejected": row["rejected"][0]["content"],
        }
        for row in rows(pairs)
    ]
    (folder / "pairs.json").write_text(json.dumps(texts), encoding="utf-8")
    described = {"pairs": {"file_name": "pairs.json", "ranking": True, "columns": COLUMNS}}
    (folder / "dataset_info.json").write_text(json.dumps(described), encoding="utf-8")


def settings(folder: str, data: Path) -> dict[str, Any]:
    """Return what its command line would be given."""
    given = options()
    return {name: given[name] for name in SAME} | {
        "stage": "dpo",
        "do_train": True,
        "model_name_or_path": folder,
        "quantization_bit": 4,
        "finetuning_type": "lora",
        "lora_rank": given["r"],
        "lora_target": ",".join(given["target_modules"]),
        "disable_gradient_checkpointing": not given["gradient_checkpointing"],
        "dataset": "pairs",
        "dataset_dir": str(data),
        "template": "breeze",
        "cutoff_len": given["max_length"],
        "pref_beta": given["beta"],
        "num_train_epochs": given["num_epoch"],
        "bf16": given["on_gpu"],
        "output_dir": "llamafactory",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


if __name__ == "__main__":
    start(Path(sys.argv[1]))
    data = Path("llamafactory-data")
    write_data(Path(sys.argv[3]), data)
    import_module("llamafactory.train.tuner").run_exp(settings(sys.argv[2], data))
