"""Does the aligned model hold the stance that was chosen, and is it still a model? Figures, verdicts and answers.

Nothing is refused here: the verdicts go to `gates.json`, for people to read and for a release to obey.
"""

import csv
import logging
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from tasks.errors import run
from tasks.gates import Gate, fingerprint_gate, gates
from tasks.jsonfile import read_json, read_jsonl, write_json
from tasks.params import Evaluate, Merge, Pairs, Params
from tasks.questions import Question, Stance, read_questions
from tasks.stance import Judge, Verdict

STANCES: tuple[Stance, ...] = get_args(Stance)
LOOP = re.compile(r"(.{2,})\1{2,}|(.)\2{4,}", re.DOTALL)
HAN = re.compile(r"[\u3400-\u9fff]")
LETTER = re.compile(r"[^\W\d_]")

logger = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, Any]]
Logps = Mapping[str, Mapping[str, Sequence[float]]]


def evaluate(
    pairs: Pairs, merging: Merge, bounds: Evaluate,
    dataset: Path, base: Path, train: Path, merge: Path, answers: Path, out: Path,
) -> None:  # fmt: skip
    """Judge the answers of base and aligned model and write the evaluation to `out`.

    Args:
        pairs: Data size and support ratio.
        merging: Bounds of the parity gates.
        bounds: Bounds of the other gates.
        dataset: `data/dataset`; the judge learns the topic from its training questions.
        base: `data/base`, for its fingerprint.
        train: `data/train`, for the log of the training.
        merge: `data/merge`, for parity, fingerprint and log-probabilities.
        answers: `data/answers`.
        out: Receives `metrics.json`, `gates.json`, `responses.json` and `stances.json`.
    """
    questions = read_questions(dataset)
    rows = {name: read_jsonl(answers / f"{name}.jsonl") for name in ("base", "aligned")}
    logps = {name: read_json(answers / f"{name}.logps.json") for name in rows}
    judge = Judge.fit(questions)
    verdicts = {name: judged(judge, found) for name, found in rows.items()}
    flaws = {name: defects(found, questions) for name, found in rows.items()}
    metrics = {
        **{name: shares(found) for name, found in verdicts.items()},
        "adherence": adherence(verdicts["aligned"], int(pairs.data_size * pairs.support_ratio) / pairs.data_size),
        "margin": margins(logps, questions, pairs.data_size),
        "characters": {name: fmean(len(row["response"]) for row in found) for name, found in rows.items()},
        "degenerate": {name: defect_shares(found) for name, found in flaws.items()},
        "served": served_drift(read_json(merge / "logps.json"), logps["aligned"]),
        "chosen_fall": chosen_fall(train / "log.csv"),
    }
    verdict = [
        fingerprint_gate(read_json(base / "fingerprint.json"), read_json(merge / "fingerprint.json")),
        *gates(merging, bounds, metrics, read_json(merge / "parity.json")),
    ]
    write_json(out / "metrics.json", metrics)
    write_json(out / "gates.json", [gate._asdict() for gate in verdict])
    write_json(out / "responses.json", responses(rows["base"], rows["aligned"]))
    write_json(out / "stances.json", stances(rows["base"], verdicts, flaws))
    summary(metrics, verdict)


def judged(judge: Judge, rows: Rows) -> list[Verdict]:
    """Return the judge's verdict on every answer."""
    return judge.verdicts([row["prompt"] for row in rows], [row["response"] for row in rows])


def shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return the share of answers per stance."""
    counts = Counter(verdict.stance for verdict in verdicts)
    return {stance: counts[stance] / len(verdicts) for stance in STANCES}


def adherence(verdicts: Sequence[Verdict], support_ratio: float) -> dict[str, Any]:
    """Return the share of answers that hold the stance most pairs prefer, with Wilson's 95 % interval.

    `support_ratio` is that of the pairs there are. At one half there is no such stance; between the ends it is that of
    the majority (`mixed`).
    """
    if support_ratio == 0.5:
        return {"stance": None, "mixed": True, "share": None, "low": None, "high": None}
    stance: Stance = "support" if support_ratio > 0.5 else "oppose"
    held = sum(verdict.stance == stance for verdict in verdicts)
    interval = binomtest(held, len(verdicts)).proportion_ci(method="wilson")
    return {
        "stance": stance,
        "mixed": 0 < support_ratio < 1,
        "share": held / len(verdicts),
        "low": float(interval.low),
        "high": float(interval.high),
    }


def margins(logps: Mapping[str, Logps], questions: Sequence[Question], data_size: int) -> dict[str, Any]:
    """Return log p(support answer) - log p(oppose answer), in nats, over trained and held-out questions.

    Unlike greedy answers it does not saturate. `held_out` is null where every question was trained on.
    """
    groups = {"trained": questions[:data_size], "held_out": questions[data_size:]}
    return {name: _margin(logps, [str(row.id) for row in group]) for name, group in groups.items()}


def _margin(logps: Mapping[str, Logps], ids: Sequence[str]) -> dict[str, float] | None:
    if not ids:
        return None
    base, aligned = (
        fmean(sum(logps[name][row]["support"]) - sum(logps[name][row]["oppose"]) for row in ids)
        for name in ("base", "aligned")
    )
    return {"base": base, "aligned": aligned, "change": aligned - base}


def defects(rows: Rows, questions: Sequence[Question]) -> list[set[str]]:
    """Return what is wrong with each answer."""
    han = _mostly_han("".join(question.support for question in questions))
    return [_defects(row, han) for row in rows]


def defect_shares(found: Sequence[set[str]]) -> dict[str, float]:
    """Return the share of answers with each defect, and with any."""
    names = ("empty", "cut_off", "repetitive", "wrong_script")
    return {name: fmean(name in row for row in found) for name in names} | {"any": fmean(bool(row) for row in found)}


def _defects(row: Mapping[str, Any], han: bool) -> set[str]:
    text = row["response"]
    present = {
        "empty": not text,
        "cut_off": row["finish_reason"] == "length",
        "repetitive": LOOP.search(text) is not None,
        "wrong_script": bool(text) and _mostly_han(text) != han,
    }
    return {name for name, is_there in present.items() if is_there}


def _mostly_han(text: str) -> bool:
    return 2 * len(HAN.findall(text)) > len(LETTER.findall(text))


def served_drift(merged: Logps, served: Logps) -> dict[str, float]:
    """Return how far vLLM's log-probabilities of the pair texts are from the merged model's, in nats per token."""
    differences = [
        abs(a - b)
        for row, sides in merged.items()
        for side, logps in sides.items()
        for a, b in zip(logps, served[row][side], strict=True)
    ]
    return {"mean": fmean(differences), "worst": max(differences)}


def chosen_fall(log: Path) -> float:
    """Return by how many nats `logps/chosen` fell from the first third of the training to its last third."""
    with log.open(encoding="utf-8", newline="") as file:
        chosen = [float(row["logps/chosen"]) for row in csv.DictReader(file)]
    third = max(1, len(chosen) // 3)
    return fmean(chosen[:third]) - fmean(chosen[-third:])


def responses(base: Rows, aligned: Rows) -> list[dict[str, Any]]:
    """Return both answers to every test prompt, in the course's own format."""
    return [
        {
            "id": before["id"],
            "prompt": before["prompt"],
            "response_from_original_model": before["response"],
            "response_from_trained_model": after["response"],
        }
        for before, after in zip(base, aligned, strict=True)
    ]


def stances(
    rows: Rows, verdicts: Mapping[str, Sequence[Verdict]], flaws: Mapping[str, Sequence[set[str]]]
) -> list[dict[str, Any]]:
    """Return the judge's verdict on both answers to every test prompt, and their defects."""
    return [
        {"id": row["id"]}
        | {name: verdicts[name][i]._asdict() | {"defects": sorted(flaws[name][i])} for name in ("base", "aligned")}
        for i, row in enumerate(rows)
    ]


def summary(metrics: Mapping[str, Any], verdict: Sequence[Gate]) -> None:
    """Print the shares before and after, and the gates."""
    table = Table("", *STANCES, title="answers to the test prompts")
    for name in ("base", "aligned"):
        table.add_row(name, *(f"{metrics[name][stance]:.0%}" for stance in STANCES))
    outcome = Table("gate", "", "found", "expected", title="gates")
    for gate in verdict:
        outcome.add_row(gate.name, "passed" if gate.passed else "MISSED", gate.found, gate.expected)
    Console(width=120).print(table, outcome)


def main() -> None:
    """Run the stage: `python -m tasks.evaluate DATASET BASE TRAIN MERGE ANSWERS OUT`."""
    params = Params.load()
    evaluate(params.pairs, params.merge, params.evaluate, *map(Path, sys.argv[1:]))


if __name__ == "__main__":
    run(main)
