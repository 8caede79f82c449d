"""How cost grows: training with the pairs, answering with the prompts and with the length of the answers.

    python -m benchmarks.growth MODEL OUT.json          # on a GPU, after benchmarks.breeze_shape

Trains one epoch on 50, 500 and 5000 pairs of the same lengths, and answers 10, 100 and 1000 prompts with 60 and with
512 tokens in one engine, so that its start, which does not grow, is measured once.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.course_run import stage, write_dataset, write_params
from stance.config.params import Params
from stance.data.chat import encode, load_tokenizer
from stance.inference.batch import ENVIRONMENT, MAX_NUM_SEQS, decoding_settings
from stance.machine.files import read_jsonl, write_json

PAIRS = (50, 500, 5000)
PROMPTS = (10, 100, 1000)
TOKENS = (60, 512)


def training(folder: Path, model: Path, pairs: int) -> dict[str, float]:
    """Return the seconds of one epoch, by the stage's own clock and with its process start."""
    write_dataset(folder / "source", pairs, 10)
    write_params(folder, model, False, 60, pairs__data_size=pairs, train__num_epoch=1)
    for name in ("dataset", "base", "pairs"):
        if name != "base" or not (folder / "data/base").exists():
            stage(folder, name)
    process = stage(folder, "train").seconds
    trained = re.search(r"trained in ([\d.]+) s", (folder / "train.log").read_text(encoding="utf-8"))
    assert trained
    return {
        "pairs": pairs,
        "trained": float(trained[1]),
        "process": process,
        "per_pair": float(trained[1]) / pairs,
    }


def answering(folder: Path, model: Path) -> list[dict[str, float]]:
    """Return the seconds that one engine takes for every number of prompts and length of answers."""
    os.environ |= ENVIRONMENT
    from vllm import LLM, SamplingParams, TokensPrompt

    tokenizer = load_tokenizer(model)
    rows = read_jsonl(folder / "data/pairs/train.jsonl")
    prompts = [TokensPrompt(prompt_token_ids=encode(tokenizer, row["prompt"])) for row in rows]
    began = time.monotonic()
    settings = decoding_settings(Params.load(folder / "params.yaml").answers, max(PROMPTS))
    settings |= {"max_model_len": 1024, "max_num_seqs": MAX_NUM_SEQS}
    engine = LLM(model=str(model), dtype="bfloat16", generation_config="vllm", **settings)
    costs: list[dict[str, float]] = [{"engine_start": time.monotonic() - began}]
    for tokens in TOKENS:
        for number in PROMPTS:
            began = time.monotonic()
            engine.generate(prompts[:number], SamplingParams(temperature=0, max_tokens=tokens), use_tqdm=False)
            seconds = time.monotonic() - began
            costs.append(
                {
                    "prompts": number,
                    "tokens": tokens,
                    "seconds": seconds,
                    "tokens_per_second": number * tokens / seconds,
                }
            )
    return costs


def main() -> None:
    """Measure, print, and write the JSON that the command line names."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("out", type=Path)
    options = ask.parse_args()
    with TemporaryDirectory() as scratch:
        result = {
            "training": [training(Path(scratch), options.model, pairs) for pairs in PAIRS],
            "answering": answering(Path(scratch), options.model),
        }
    write_json(options.out, result)
    for row in (*result["training"], *result["answering"]):
        print(*(f"{key} {value:.4g}" for key, value in row.items()), sep="  ", file=sys.stdout)


if __name__ == "__main__":
    main()
