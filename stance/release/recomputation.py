"""Take the cheap measurements of a run again, and refuse a run whose files say something else.

Hashes prove only that files agree with one another: who edits a file can edit `dvc.lock` as well. So a release and a
push take these measurements again:

* the merged model is the base, or all its weights fine-tuned, plus the adapter, weight by weight;
* the merged model gives sample answers of the pairs the log-probabilities that the stage `merge` wrote;
* each published answer is one that the merged model gives, token by token, within the noise of bf16;
* the stage `evaluate`, with a judge that the stage `classifier` has taught anew, gives the same figures, gates and
  answers.

`recompute` starts `python -m stance recompute FOLDER` for that: the libraries and the models leave the memory with that
process. The training itself, and the base model's answers, are not repeated.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stance.data.answers import Answer, read_answers
from stance.data.metrics import CLASSIFIER
from stance.data.noise import SERVED, UNMEASURED
from stance.data.preferences import Pair, read_pairs
from stance.data.records import GATES
from stance.errors import InputError
from stance.machine.digests import hand_over, handed_over
from stance.machine.files import parse_yaml, read_json
from stance.machine.processes import environment
from stance.machine.supervisor import run_to_end
from stance.runs.finished import ADAPTER, MERGED, PIPELINE, FinishedRun

if TYPE_CHECKING:
    import torch

SAMPLE = 16
"""Pairs whose answers are scored again."""
ROUNDINGS = 2
"""Steps of a weight's format by which two correct merges may differ: another processor adds in another order."""
CLOSE = 0.02
"""The relative or absolute difference of two figures that count as the same."""
ANSWERS, LOGPS = Path("data/answers/aligned.jsonl"), Path("data/merge/logps.json")


def recompute(run: FinishedRun) -> None:
    """Measure a run again in a process of its own, which ends with this one.

    Raises:
        InputError: A measurement gives something else than the run's files say; names it.
    """
    with TemporaryDirectory() as scratch:
        digests = Path(scratch) / "digests.json"
        hand_over(digests, run.digests)
        command = [sys.executable, "-m", "stance", "recompute", str(run.folder.resolve()), "--digests", str(digests)]
        printed = Path(scratch) / "printed"
        with printed.open("wb") as stream:
            code = run_to_end(command, env=environment(), stdout=subprocess.DEVNULL, stderr=stream)
        lines = printed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code:
        last = lines[-1] if lines else f"`python -m stance recompute` exited with {code}"
        raise InputError(last.removeprefix("error: "))


def require_same(run: FinishedRun) -> None:
    """Measure a run again in this process; raises as `recompute` does."""
    import torch

    device = run.params.model.device if torch.cuda.is_available() else "cpu"
    require_sum(run, device)
    require_model(run, device)
    require_evaluation(run)


def require_model(run: FinishedRun, device: str) -> None:
    """Load the merged model, and refuse log-probabilities and answers that are not its own."""
    from stance.data.chat import load_tokenizer
    from stance.models.loading import load

    tokenizer, model = load_tokenizer(run.folder / MERGED), load(run.folder / MERGED, device)
    require_logps(run, tokenizer, model)
    require_answers(run, tokenizer, model)


def require_sum(run: FinishedRun, device: str) -> None:
    """Refuse a merged model that is not the model which the adapter was trained on, plus that adapter."""
    from stance.models.base import locate_tuned, small_files
    from stance.models.weights import weight_files
    from stance.training.merging import update

    base, merged = locate_tuned(run.folder / "data/base", run.folder / "data/sft"), run.folder / MERGED
    change = update(run.parity.base, base, run.folder / ADAPTER)
    names = list(run.files(MERGED))
    for name in small_files(names):
        if run.base.files[name].sha256 != run.files(MERGED)[name].sha256:
            raise InputError(f"{merged / name} is not the file of the base model; run `dvc repro -s -f merge`")
    for name in weight_files(merged, names, str(merged)):
        for key, expected, weight in _pairs(base / name, merged / name, device):
            if not _alike(weight, change(key, expected)):
                raise InputError(
                    f"{key} in {merged / name} is not the base's weight plus the adapter's change; run "
                    "`dvc repro -s -f merge` in the run's folder, and then `make repro`"
                )


def _pairs(base: Path, merged: Path, device: str) -> "Iterator[tuple[str, torch.Tensor, torch.Tensor]]":
    from safetensors import safe_open

    with safe_open(base, "pt", device=device) as before, safe_open(merged, "pt", device=device) as after:
        if set(before.keys()) != set(after.keys()):
            raise InputError(f"{merged} has other weights than {base}; run `dvc repro -s -f merge` in the run's folder")
        yield from ((key, before.get_tensor(key), after.get_tensor(key)) for key in sorted(before.keys()))


def _alike(weight: "torch.Tensor", expected: "torch.Tensor") -> bool:
    import torch

    if weight.dtype != expected.dtype or weight.shape != expected.shape:
        return False
    step = ROUNDINGS * torch.finfo(weight.dtype).eps if weight.is_floating_point() else 0.0
    small = step * float(expected.float().abs().mean())  # where base and change cancel out
    return bool(torch.isclose(weight.float(), expected.float(), rtol=step, atol=small).all())


def require_logps(run: FinishedRun, tokenizer: Any, model: Any) -> None:
    """Refuse log-probabilities in `data/merge/logps.json` that the merged model does not give sample pairs."""
    from stance.data.chat import encode_answer
    from stance.models.parity import score

    mean, worst = (run.parity.floor or UNMEASURED).bounds(SERVED)
    pairs = _sample(run)
    texts = [
        encode_answer(tokenizer, [turn.model_dump() for turn in pair.prompt], text)
        for pair in pairs
        for text in (pair.chosen_text, pair.rejected_text)
    ]
    recorded = read_json(run.folder / LOGPS)
    sides = [(str(pair.id), stance) for pair in pairs for stance in (pair.preferred, pair.against)]
    differences = [
        abs(a - b)
        for (row, stance), found in zip(sides, score(model, texts), strict=True)
        for a, b in zip(found.logps, recorded[row].get(stance, found.logps), strict=True)
    ]
    drift, most = math.fsum(differences) / len(differences), max(differences)
    if not (drift <= mean and most <= worst):
        raise InputError(
            f"{run.folder / MERGED} is {drift:.4f} nats per token (worst {most:.3f}) from {LOGPS}; expected at most "
            f"{mean:.4f} (worst {worst:.3f}): run `dvc repro -s -f merge` in the run's folder, and then `make repro`"
        )


def require_answers(run: FinishedRun, tokenizer: Any, model: Any) -> None:
    """Refuse answers that are not those of the merged model."""
    from stance.data.chat import conversation, encode_answer
    from stance.models.parity import score

    slack = max((run.parity.floor or UNMEASURED).bounds(SERVED)[1], 2 * run.metrics.served.worst)
    rows, prompt = read_answers(run.folder / ANSWERS), run.params.model.system_prompt
    answers = [encode_answer(tokenizer, conversation(prompt, row.prompt), row.response) for row in rows]
    for row, (ids, _), found in zip(rows, answers, score(model, answers), strict=True):
        place = _first_clear(row, found.behind, slack)
        # The text of an answer may be cut into other tokens than those that the model gave.
        if place is not None and _continued(model, tokenizer, ids, row.tokens) != row.response:
            raise InputError(
                f"{ANSWERS}, answer {row.id} is not one that the merged model gives: another token leads by "
                f"{found.behind[place]:.2f} nats at place {place + 1}, expected at most {slack:.2f}; run "
                "`dvc repro -s -f answers_aligned` in the run's folder, and then `make repro`"
            )


def _sample(run: FinishedRun) -> list[Pair]:
    rows = [*read_pairs(run.folder / "data/pairs/train.jsonl"), *read_pairs(run.folder / "data/pairs/eval.jsonl")]
    return rows[:: max(1, len(rows) // SAMPLE)]


def _first_clear(row: Answer, behind: Sequence[float], slack: float) -> int | None:
    """Return the first place at which an answer's token is clearly not the likeliest one; a cut answer has no end."""
    length = len(behind) if row.finish_reason == "stop" else min(len(behind), row.tokens) - 1
    return next((place for place in range(length) if behind[place] > slack), None)


def _continued(model: Any, tokenizer: Any, ids: Sequence[int], tokens: int) -> str:
    """Return the text with which a model continues a prompt, greedily and for at most so many tokens."""
    import torch

    prompt = torch.tensor([list(ids)], device=model.device)
    made = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, num_beams=1, max_new_tokens=tokens
    )
    return str(tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)).strip()


def require_evaluation(run: FinishedRun) -> None:
    """Teach the judge and run the stage that wrote the gates once more, and refuse a run with other results."""
    stages = parse_yaml(run.contents[PIPELINE], run.folder / PIPELINE)["stages"]
    evaluates = next(stage for stage, outs in run.lock.outputs.items() if GATES.as_posix() in outs)
    teaches = [stage for stage, outs in run.lock.outputs.items() if CLASSIFIER.as_posix() in outs]
    with TemporaryDirectory() as scratch:
        made: dict[str, str] = {}
        for stage in (*teaches, evaluates):  # a run of an earlier version taught its judge in `evaluate`
            # The last argument of a stage is the folder that it writes.
            *command, out = (made.get(word, word) for word in shlex.split(stages[stage]["cmd"]))
            made[out] = str(Path(scratch, stage))
            run_again(run, stage, [*command, made[out]])
        for output in run.lock.outputs[evaluates]:
            measured = read_json(Path(scratch, evaluates, Path(output).name))
            require_close(output, json.loads((run.folder / output).read_bytes()), measured)


def run_again(run: FinishedRun, stage: str, command: Sequence[str]) -> None:
    """Run a command of a stage in the folder of a run, and refuse the run if that fails."""
    program, *arguments = command
    ended = subprocess.run(
        [sys.executable if program == "tasks/python" else program, *arguments],
        cwd=run.folder, env=environment(), capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if ended.returncode:
        raise InputError(f"the stage {stage} does not run any more: {ended.stderr.strip().splitlines()[-1]}")


def require_close(place: str, recorded: Any, measured: Any) -> None:
    """Refuse a value, or a value in a list or mapping, that is not the measured one; names the place of it."""
    if isinstance(recorded, dict) and isinstance(measured, dict) and recorded.keys() == measured.keys():
        for key, value in recorded.items():
            require_close(f"{place}: {key}" if ": " not in place else f"{place}.{key}", value, measured[key])
    elif isinstance(recorded, list) and isinstance(measured, list) and len(recorded) == len(measured):
        for number, (value, other) in enumerate(zip(recorded, measured, strict=True), start=1):
            require_close(f"{place}, row {number}" if ": " not in place else f"{place}.{number}", value, other)
    elif not _close(recorded, measured):
        raise InputError(
            f"{place} is {str(recorded)[:80]!r}, and `evaluate` gives {str(measured)[:80]!r} now; run "
            "`dvc repro -s -f evaluate` in the run's folder"
        )


def _close(recorded: Any, measured: Any) -> bool:
    numbers = all(isinstance(value, float) and not math.isnan(value) for value in (recorded, measured))
    if numbers:
        return math.isclose(recorded, measured, rel_tol=CLOSE, abs_tol=CLOSE)
    return json.dumps(recorded) == json.dumps(measured)


def main() -> None:
    """Measure a run again: `python -m stance recompute FOLDER`."""
    parser = argparse.ArgumentParser(
        description="Take the cheap measurements of a run again, and refuse a run whose files say something else. A "
        "release and a push start this command."
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), help="a finished run (default: this folder)")
    parser.add_argument("--digests", type=Path, help="a file of digests that the calling process has taken")
    options = parser.parse_args()
    require_same(FinishedRun.read(options.folder, handed_over(options.digests)))
