"""Does the aligned model hold the stance that was chosen, and is it still a model? Figures, verdicts and answers.

Nothing is refused here: the verdicts go to `gates.json`, for people to read and for a release to obey.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from stance.config.params import Params
from stance.data.answers import read_answers
from stance.data.chat import Fingerprint
from stance.data.metrics import ACCURACY, ClassifierAccuracy, Metrics
from stance.data.preferences import read_pairs
from stance.data.questions import PROBES, read_probes, read_questions
from stance.data.records import Gate, write_gates
from stance.data.training import Joint, Parity, Watchdog
from stance.data.verdicts import Opinion, write_probe_verdicts, write_prompt_verdicts, write_side_verdicts
from stance.errors import paths, run
from stance.evaluation.defects import defects
from stance.evaluation.fitted import judged, read_classifier
from stance.evaluation.gates import gates_of
from stance.evaluation.measures import (
    STANCES,
    adherence,
    agreement,
    chosen_fall,
    of_answers,
    of_likelihood,
    probed,
    prompt_verdicts,
    responses,
)
from stance.evaluation.probes import boundary, probe_verdicts
from stance.evaluation.side_effects import read_side_effects
from stance.language.messages import sentence
from stance.machine.files import write_json


def evaluate(
    params: Params, dataset: Path, classifier: Path, base: Path, pairs: Path, train: Path, merge: Path, answers: Path,
    judge: Path, out: Path,
) -> None:  # fmt: skip
    """Judge the answers of base and aligned model and write the evaluation to `out`.

    Args:
        params: All of them; of most only the bounds of the gates.
        dataset: `data/dataset`, for its questions and probes.
        classifier: `data/classifier`, which judges the answers.
        base: `data/base`, for its fingerprint; its hidden states judge answers that are not in Chinese.
        pairs: `data/pairs`, for which answers were chosen.
        train: `data/train`, for the log of the training.
        merge: `data/merge`, for parity, fingerprint and log-probabilities.
        answers: `data/answers`.
        judge: `data/judge`, for the second judge's opinion.
        out: Receives `metrics.json`, `gates.json`, and `{responses,stances,probes,side_effects}.json`.
    """
    questions = read_questions(dataset)
    taught = read_classifier(classifier, base, params.model.device)
    rows = {name: read_answers(answers / f"{name}.jsonl") for name in ("base", "aligned")}
    verdicts = {name: judged(taught, answered) for name, answered in rows.items()}
    system = params.model.system_prompt
    flaws = {name: defects(answered, verdicts[name], questions, system) for name, answered in rows.items()}
    probes = probed(taught, read_probes(dataset / PROBES), answers)
    chosen = {"trained": read_pairs(pairs / "train.jsonl"), "held_out": read_pairs(pairs / "eval.jsonl")}
    held = adherence(verdicts["aligned"], fmean(pair.preferred == "support" for pair in chosen["trained"]))
    side_effects, changes = read_side_effects(taught, dataset, answers, held.stance, params.evaluate.side_effects)
    metrics = Metrics(
        **of_answers(rows, verdicts, flaws, ClassifierAccuracy.read(classifier / ACCURACY)),
        adherence=held,
        judge=agreement(Opinion.read(judge / "verdicts.json"), verdicts),
        probes=boundary(probes, held.stance),
        **of_likelihood(answers, merge, chosen, params.train.beta),
        chosen_fall=chosen_fall(train / "log.csv", params.train.beta),
        side_effects=side_effects,
        joint=Joint.read(train / "joint.json").figures,
    )
    before, merged = (Fingerprint.read(folder / "fingerprint.json") for folder in (base, merge))
    parity, watchdog = Parity.read(merge / "parity.json"), Watchdog.read(train / "watchdog.json")
    gates = gates_of(params, metrics, before, merged, parity, watchdog)
    metrics.write(out / "metrics.json")
    write_gates(out / "gates.json", gates)
    write_json(out / "responses.json", [row.model_dump() for row in responses(rows["base"], rows["aligned"])])
    write_prompt_verdicts(out / "stances.json", prompt_verdicts(rows["base"], verdicts, flaws))
    write_probe_verdicts(out / "probes.json", probe_verdicts(probes))
    write_side_verdicts(out / "side_effects.json", changes)
    summary(metrics, gates)


def summary(metrics: Metrics, verdict: Sequence[Gate]) -> None:
    """Print the shares before and after, and the gates."""
    table = Table("", *STANCES, title="answers to the test prompts")
    for name, shares in (("base", metrics.base), ("aligned", metrics.aligned)):
        table.add_row(name, *(f"{shares[stance]:.0%}" for stance in STANCES))
    outcome = Table("gate", "", "found", "expected", title="gates")
    for gate in verdict:
        word = "passed" if gate.passed else "warns" if gate.warns else "MISSED"
        outcome.add_row(gate.name, word, sentence(gate.figure), sentence(gate.bound))
    Console(width=120, markup=False, emoji=False).print(table, outcome)


def main() -> None:
    """Run the stage: `python -m tasks.evaluate DATASET CLASSIFIER BASE PAIRS TRAIN MERGE ANSWERS JUDGE OUT`."""
    arguments = paths(evaluate)
    evaluate(Params.load(), *arguments)


if __name__ == "__main__":
    run(main)
