"""One engine that answers for the base and for every adapter of a sweep, against a merged model and an engine for each.

    python -m benchmarks.breeze_shape /tmp/breeze
    python -m benchmarks.shared_training /tmp/breeze shared.json --keep /tmp/adapter
    python -m benchmarks.resident_engine /tmp/breeze /tmp/adapter OUT.json
    python -m benchmarks.resident_engine --small MODEL ADAPTER OUT.json      # a CPU, a narrow model

The one engine takes an adapter in two ways. *Exchanged*: it gets the weights that a merge would write, as the trials of
`make sweep MERGE=best` do. *LoRA*: it adds the adapter to each product.

The adapters are copies of one, with 1, 1/2, 1/4 … of its change. The batch is that of the stage `answers`: greedy
answers to the test prompts, and scores of all labelled answers. Each part is a process of its own, as a stage is. The
first adapter is also merged, and its answers in the one engine are held against those of the merged model.

With LoRA on a CPU, vLLM copies the adapter's weights for each token, which takes most of the time there. So fewer
answers are scored, and the speeds of a CPU say nothing about a GPU.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

from benchmarks.course_run import machine, write_params
from benchmarks.watch import cost
from stance.config.params import Params
from stance.data.chat import load_tokenizer
from stance.data.noise import MERGED, Floor
from stance.data.questions import read_prompts, read_questions
from stance.inference.answers import answer_logps, answer_requests, labelled_texts, score_requests
from stance.inference.batch import (
    adapter_rank,
    decoding_settings,
    engine_settings,
    exchange,
    lora_request,
    lora_settings,
    sampling_params,
    start_engine,
)
from stance.machine.files import read_json, write_json
from stance.machine.memory import gib
from stance.models.loading import load
from stance.models.parity import Scores, Text, drift, floor, score
from stance.runs.trials import changed
from stance.training.merging import release_memory, update, write_merged

SOURCE = Path(__file__).parents[1] / "data/sources/live_action"
TOKENS = 30
ROUNDS = 2  # the first one compiles kernels, and reads files that are not in memory; the last one counts
LONG, QUESTIONS = {"cuda": 1000, "cpu": 20}, {"cuda": None, "cpu": 10}
WEIGHTS = "adapter_model.safetensors"
Figures = dict[str, Any]


class Engine:
    """An engine, with the batch that it answers."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        """Start it; with a rank it takes adapters."""
        params = Params.load()
        self.long, self.texts = LONG[params.model.device], labelled(folder, params)
        asked = answer_requests(load_tokenizer(folder), read_prompts(SOURCE), params.model.system_prompt, TOKENS)
        self.asked, self.batch = len(asked), [*asked, *score_requests(self.texts, 0)]
        lengths = [len(ids) + (self.long if settings["max_tokens"] > 1 else 1) for ids, settings in self.batch]
        settings = engine_settings(folder, params.model, params.answers, lengths)
        settings |= decoding_settings(params.answers, self.asked) | (lora_settings(rank) if rank else {})
        self.imported = since_start()
        self.vllm = start_engine(folder, settings)
        self.ready = since_start()

    def generate(self, batch: Sequence[tuple[list[int], dict[str, Any]]], lora: Any) -> list[Any]:
        """Return the engine's outputs, none of them from its cache of prefixes."""
        from vllm import TokensPrompt

        self.vllm.reset_prefix_cache()
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids, _ in batch]
        sampling = [sampling_params(**settings) for _, settings in batch]
        return list(self.vllm.generate(prompts, sampling, use_tqdm=False, lora_request=lora))

    def answers(self, lora: Any = None, backwards: bool = False) -> Figures:
        """Return the token ids of all answers, the log-probabilities of all scored texts, and the seconds."""
        began, order = time.monotonic(), -1 if backwards else 1
        outputs = self.generate(self.batch[::order], lora)[::order]
        return {
            "seconds": time.monotonic() - began,
            "since_start": since_start(),
            "answers": [list(output.outputs[0].token_ids) for output in outputs[: self.asked]],
            "logps": [
                answer_logps(text, output) for text, output in zip(self.texts, outputs[self.asked :], strict=True)
            ],
        }

    def speed(self, lora: Any = None) -> float:
        """Return the tokens that are decoded in a second, for all test prompts at once."""
        batch = [(ids, {"max_tokens": self.long, "ignore_eos": True}) for ids, _ in self.batch[: self.asked]]
        began = time.monotonic()
        self.generate(batch, lora)
        return self.asked * self.long / (time.monotonic() - began)


def labelled(folder: Path, params: Params) -> list[Text]:
    """Return the texts that are scored."""
    tokenizer, questions = load_tokenizer(folder), read_questions(SOURCE)[: QUESTIONS[params.model.device]]
    return [text for row in questions for text in labelled_texts(tokenizer, row, params.model.system_prompt)]


def since_start() -> float:
    """Return the seconds since this process was started."""
    return time.time() - psutil.Process(os.getpid()).create_time()


def resident(model: Path, adapters: Sequence[Path], merged: Path) -> Figures:
    """Answer for the base and for every adapter in one engine; then for the first and the base once more."""
    engine = Engine(model, adapter_rank(adapters[0]))
    base = engine.answers()
    loras = [lora_request(adapter, number) for number, adapter in enumerate(adapters, start=1)]
    answered = [engine.answers(lora) for lora in loras]
    again = lora_request(adapters[0], len(adapters) + 1)
    return {
        "imported": engine.imported,
        "ready": engine.ready,
        "base": base,
        "adapters": answered,
        "adapter_again": engine.answers(again),
        "base_again": engine.answers(),
        "tokens_per_second": {"base": engine.speed(), "adapter": engine.speed(again)},
    }


def exchanged(model: Path, adapters: Sequence[Path], merged: Path) -> Figures:
    """Answer for every adapter in one engine that gets the weights of each merge, and for the first one once more."""
    engine, device = Engine(model), Params.load().model.device
    answered, seconds = [], []
    for adapter in [*adapters, adapters[0]]:
        began, change = time.monotonic(), update("original", model, adapter)
        exchange(engine.vllm, changed(model, change, device))
        seconds.append(time.monotonic() - began)
        answered.append(engine.answers())
    *tried, again = answered
    return {
        "imported": engine.imported,
        "ready": engine.ready,
        "exchange_seconds": seconds,
        "adapters": tried,
        "adapter_again": again,
        "tokens_per_second": engine.speed(),
    }


def merge(model: Path, adapters: Sequence[Path], merged: Path) -> Figures:
    """Merge the first adapter into the published weights, and score what was written with transformers."""
    params, began = Params.load(), time.monotonic()
    write_merged(model, update("original", model, adapters[0]), params.model.device, merged)
    figures = {"seconds": time.monotonic() - began, "since_start": since_start()}
    release_memory()
    texts, written = labelled(model, params), load(merged, params.model.device)
    scores = score(written, texts)
    return {**figures, "logps": [row.logps for row in scores], "floor": floor(written, texts, scores).model_dump()}


def of_merged(model: Path, adapters: Sequence[Path], merged: Path) -> Figures:
    """Answer with the merged model, in an engine without adapters; then with the batch backwards."""
    engine = Engine(merged)
    return {
        "imported": engine.imported,
        "ready": engine.ready,
        "adapter": engine.answers(),
        "backwards": engine.answers(backwards=True),
        "tokens_per_second": engine.speed(),
    }


PARTS: dict[str, Callable[[Path, Sequence[Path], Path], Figures]] = {
    "resident": resident,
    "exchanged": exchanged,
    "merge": merge,
    "of_merged": of_merged,
}


def scaled(adapter: Path, out: Path, share: float) -> Path:
    """Write a copy of an adapter that changes the base by a share of what the adapter does."""
    shutil.copytree(adapter, out)
    tensors = load_file(adapter / WEIGHTS)
    save_file({key: share * value if "lora_B" in key else value for key, value in tensors.items()}, out / WEIGHTS)
    return out


def apart(some: Figures, other: Figures) -> Figures:
    """Return how far two results are apart: nats per token of the scored texts, and how many answers are equal."""
    first, second = ([Scores(row, [0] * len(row), [0.0] * len(row)) for row in each["logps"]] for each in (some, other))
    figures: Figures = drift(first, second, inf).model_dump(include={"mean", "worst", "tokens"})
    if "answers" in some and "answers" in other:
        figures["equal"] = sum(a == b for a, b in zip(some["answers"], other["answers"], strict=True))
        figures["answers"] = len(some["answers"])
    return figures


def summary(measured: dict[str, Figures], number: int) -> Figures:
    """Return the comparisons and the totals for a sweep of so many adapters.

    The way of today merges and answers in two processes for each adapter, and in one for the base; only one adapter was
    measured so.
    """
    one, merged, lora = measured["resident"], measured["of_merged"], measured["resident"]["adapters"][0]
    other = measured["exchanged"]
    comparisons = {
        "exchanged, merged": apart(other["adapters"][0], merged["adapter"]),
        "exchanged again": apart(other["adapters"][0], other["adapter_again"]),
        "adapter, merged": apart(lora, merged["adapter"]),
        "merged, backwards": apart(merged["adapter"], merged["backwards"]),
        "merged, transformers": apart(merged["adapter"], measured["merge"]),
        "adapter, loaded again": apart(lora, one["adapter_again"]),
        "base, after the adapters": apart(one["base"], one["base_again"]),
        "adapter, base": apart(lora, one["base"]),
        "adapter, half of it": apart(lora, one["adapters"][-1 if number < 2 else 1]),
    }
    mean, worst = Floor.model_validate(measured["merge"]["floor"]).bounds(MERGED)
    drifted, answering = comparisons["adapter, merged"], merged["adapter"]["since_start"]
    return {
        "comparisons": comparisons,
        "bounds": {"mean": mean, "worst": worst},
        "within": drifted["mean"] <= mean and drifted["worst"] <= worst,
        "sweep": {
            "exchanged": other["adapters"][-1]["since_start"],
            "resident": one["adapters"][-1]["since_start"],
            "today": number * (measured["merge"]["since_start"] + answering) + answering,
        },
    }


def resident_engine(model: Path, adapter: Path, merged: Path | None, number: int, small: bool) -> Figures:
    """Measure everything and return it."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_params(folder, model, small, TOKENS)
        adapters = [str(scaled(adapter, folder / f"adapter-{place}", 0.5**place)) for place in range(number)]
        written = merged.resolve() if merged else folder / "merged"
        rounds: list[dict[str, Figures]] = []
        for _ in range(1 if small else ROUNDS):
            rounds.append({part: of_part(part, folder, model, adapters, written) for part in PARTS})
    return {"machine": machine(), **rounds[-1], "summary": summary(rounds[-1], number), "before": rounds[:-1]}


def of_part(part: str, folder: Path, model: Path, adapters: Sequence[str], merged: Path) -> Figures:
    """Run a part in a process of its own, and return its figures and what it took."""
    command = [sys.executable, "-m", "benchmarks.resident_engine", "--part", part, "--merged", str(merged)]
    taken = cost([*command, str(model.resolve()), *adapters, f"{part}.json"], folder)
    return {**read_json(folder / f"{part}.json"), "cost": taken._asdict()}


def show(result: Figures) -> None:
    """Print what was measured."""
    one, other, merged = result["resident"], result["exchanged"], result["of_merged"]
    console = Console(width=100)
    times = Table("seconds since the start of the process", "exchanged", "LoRA", "merged", title=result["machine"])
    for name in ("imported", "ready"):
        times.add_row(name, *(f"{each[name]:.1f}" for each in (other, one, merged)))
    times.add_row("merged model written", "", "", f"{result['merge']['since_start']:.1f}")
    times.add_row("base answered", "", f"{one['base']['since_start']:.1f}", "")
    for place, (swap, lora) in enumerate(zip(other["adapters"], one["adapters"], strict=True)):
        own = f"{merged['adapter']['since_start']:.1f}" if place == 0 else ""
        both = (f"{each['since_start']:.1f} ({each['seconds']:.2f} s)" for each in (swap, lora))
        times.add_row(f"adapter {place + 1} answered", *both, own)
    times.add_row("GPU GiB", *(gib(each["cost"]["gpu"]) for each in (other, one, merged)))
    drifts = Table("compared", "nats per token", "worst", "equal answers")
    for name, each in result["summary"]["comparisons"].items():
        equal = f"{each['equal']} of {each['answers']}" if "equal" in each else ""
        drifts.add_row(name, f"{each['mean']:.2g}", f"{each['worst']:.2g}", equal)
    console.print(times)
    console.print(drifts)
    speeds = {
        **one["tokens_per_second"],
        **{name: result[name]["tokens_per_second"] for name in ("exchanged", "of_merged")},
    }
    rest = {key: value for key, value in result["summary"].items() if key != "comparisons"}
    console.print_json(data=rest | {"tokens_per_second": speeds})


def main() -> None:
    """Measure, print, and write the JSON that the command line names."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("adapter", type=Path, nargs="+")
    ask.add_argument("out", type=Path)
    ask.add_argument("--merged", type=Path, help="where the merged model is kept")
    ask.add_argument("--adapters", type=int, default=4)
    ask.add_argument("--small", action="store_true")
    ask.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = ask.parse_args()
    if options.part:
        write_json(options.out, PARTS[options.part](options.model, options.adapter, options.merged))
        return
    result = resident_engine(options.model, options.adapter[0], options.merged, options.adapters, options.small)
    write_json(options.out, result)
    show(result)


if __name__ == "__main__":
    main()
