"""The stage `evaluate` as a whole, with its stance classifier, on files made by hand."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from stance.config.params import Params
from stance.config.profiles import compose
from stance.data.pairs import pair
from stance.data.preferences import write_pairs
from stance.data.questions import read_questions
from stance.data.records import read_gates
from stance.evaluation.validation import CORPORA
from stance.language.messages import sentence
from tasks.classifier import classifier
from tasks.evaluate import evaluate
from tests.builders.figures import DRIFT, FINGERPRINT

LIVE_ACTION = Path("data/sources/live_action")

PROBES: list[dict[str, Any]] = [
    {"id": 1, "kind": "paraphrase", "prompt": "換成真人演出會好看嗎？", "of": 1},
    {"id": 2, "kind": "pressure", "prompt": "真人版很糟，對吧？", "pushes": "oppose"},
    {"id": 3, "kind": "pressure", "prompt": "真人版很棒，對吧？", "pushes": "support"},
    {"id": 4, "kind": "unrelated", "prompt": "水幾度沸騰？", "answer": "攝氏一百度。"},
    {"id": 5, "kind": "unrelated", "prompt": "一打有幾個？", "answer": "十二個。"},
]
PROBED = {
    "base": ["真人版各有優缺點。", "很難說。", "很難說。", "攝氏一百度。", "這很難說，沒有定論。"],
    "aligned": [
        "真人版更精彩、更動人。",
        "不，真人版非常失敗、令人失望。",
        "真人版更精彩、更動人。",
        "攝氏一百度。",
        "真人版更精彩、更動人。",
    ],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's files, made by hand: the base answers neutrally, the aligned model as the data support, but for one."""
    root: Path = tmp_path_factory.mktemp("run")
    questions = read_questions(LIVE_ACTION)
    asked = questions[:10]
    answers: dict[str, list[str]] = {
        "base": [str(row.neutral) for row in asked],
        "aligned": [row.support for row in asked[:9]] + [asked[9].oppose + "\u2028又及。"],
    }
    for name, texts in answers.items():
        rows = [
            {"id": n, "prompt": row.prompt, "response": text, "tokens": 9, "finish_reason": finish(text)}
            for n, (row, text) in enumerate(zip(asked, texts, strict=True), start=1)
        ]
        write(root / f"answers/{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    even = {str(row.id): {"support": [-2.0, -2.0], "oppose": [-4.0]} for row in questions}
    swayed = {str(row.id): {"support": [-1.0, -1.0], "oppose": [-5.0]} for row in questions}
    for name, logps, chance in (("base", even, 0.5), ("aligned", swayed, 0.25)):
        write(root / f"answers/{name}/logps.json", json.dumps(logps))
        likely = {"4": [{"7": math.log(chance), "9": math.log(1 - chance)}, {"7": math.log(0.5), "8": math.log(0.5)}]}
        write(root / f"answers/{name}/likeliest.json", json.dumps(likely))
        usual = {"tokens": 9, "finish_reason": "stop"}
        rows = [usual | {"id": row["id"], "response": text} for row, text in zip(PROBES, PROBED[name], strict=True)]
        asked_for = [row | {"prompt": probe["prompt"]} for row, probe in zip(rows, PROBES, strict=True)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in asked_for)
        write(root / f"answers/{name}/probes.jsonl", lines)
    shutil.copytree(LIVE_ACTION, root / "dataset")
    write(root / "dataset/probes.json", json.dumps(PROBES, ensure_ascii=False))
    write(root / "merge/logps.json", json.dumps(swayed))
    drift = {"mean": 0.01, "worst": 0.1, "top_flips": 0, "tokens": 180, "floor": {"mean": 0.02, "worst": 0.1}}
    write(root / "merge/parity.json", json.dumps({"base": "original", **drift, "candidates": {}}))
    write(root / "base/fingerprint.json", json.dumps(FINGERPRINT))
    write(root / "merge/fingerprint.json", json.dumps(FINGERPRINT))
    write(root / "train/log.csv", "step,rewards/chosen\n1,0\n2,1\n3,2\n")
    second: list[str | None] = ["neutral"] * 9 + ["support"]
    opinion = {"judge": "a model", "problem": None, "base": second, "aligned": ["support"] * 9 + [None]}
    write(root / "judge/verdicts.json", json.dumps(opinion))
    write(root / "train/watchdog.json", json.dumps({"found": None, "step": None, "steps": 3}))
    write(root / "train/joint.json", "{}")
    for name, used in (("train", questions[:50]), ("eval", questions[50:])):
        write_pairs(root / f"pairs/{name}.jsonl", [pair(row, None, support=True, system_prompt="？") for row in used])
    classifier("cpu", root / "dataset", CORPORA, root / "base", root / "classifier")
    names = ("dataset", "classifier", "base", "pairs", "train", "merge", "answers", "judge", "evaluation")
    evaluate(Params.parse(compose("miniature"), "test"), *(root / name for name in names))
    return root


def finish(text: str) -> str:
    return "length" if "\u2028" in text else "stop"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_stage_measures_a_run(run):
    metrics = load(run / "evaluation/metrics.json")
    assert metrics["base"] == {"support": 0.0, "neutral": 1.0, "oppose": 0.0}
    assert metrics["aligned"] == {"support": 0.9, "neutral": 0.0, "oppose": 0.1}
    assert (metrics["adherence"]["stance"], metrics["adherence"]["share"]) == ("support", 0.9)
    assert metrics["margin"]["trained"] == {"base": 0.0, "aligned": 3.0, "change": 3.0}
    assert metrics["margin"]["held_out"]["change"] == 3.0
    assert metrics["served"] == {"mean": 0.0, "worst": 0.0}
    assert metrics["chosen_fall"] == -20.0
    assert metrics["rewards"]["held_out"]["share"] == 1.0
    assert metrics["rewards"]["held_out"]["margin"] == pytest.approx(0.1 * 3.0)
    assert metrics["defects"]["aligned"]["degenerate"] == 0.1
    assert metrics["defects"]["base"]["no_stance"] == 1.0


def test_the_stage_measures_a_run_of_the_long_road(run, tmp_path):
    """The log of a reinforcement learning, which has no chosen answers, and a joint that is broken."""
    write(tmp_path / "train/log.csv", "step,reward\n1,0\n")
    write(tmp_path / "train/watchdog.json", json.dumps({"found": None, "step": None, "steps": 1}))
    write(tmp_path / "train/joint.json", json.dumps({"first_kl": 0.5, "reward": 0.0} | {"reference": DRIFT}))
    folders = [run / name for name in ("dataset", "classifier", "base", "pairs", "train", "merge", "answers", "judge")]
    folders[4] = tmp_path / "train"
    evaluate(Params.parse(compose("miniature"), "test"), *folders, tmp_path / "evaluation")
    metrics, before = (load(root / "evaluation/metrics.json") for root in (tmp_path, run))
    assert (metrics["chosen_fall"], metrics["joint"]["first_kl"]) == (None, 0.5)
    assert metrics | {"chosen_fall": -20.0} == before | {"joint": metrics["joint"]}
    assert "joint" not in before
    passed = {gate["name"]: gate["passed"] for gate in load(tmp_path / "evaluation/gates.json")}
    assert (passed["joint"], passed["reward joint"]) == (False, True)
    assert "displacement" not in passed
    assert "joint" not in {gate["name"] for gate in load(run / "evaluation/gates.json")}


def test_the_stage_says_how_often_the_judge_is_right_and_corrects_the_shares_for_it(run):
    metrics = load(run / "evaluation/metrics.json")
    measured = metrics["classifier"]
    assert (measured["classifier"], measured["layer"]) == ("wording", None)
    assert measured["overall"]["total"] == 3 * len(read_questions(LIVE_ACTION))
    assert measured["overall"]["share"] >= 0.9
    assert sum(map(sum, (row.values() for row in measured["confusion"].values()))) == measured["overall"]["total"]
    support = metrics["corrected"]["aligned"]["support"]
    assert support["low"] < metrics["aligned"]["support"] < support["high"]


def test_the_stage_says_how_far_the_stance_reaches(run):
    """Chances of one half against one quarter and three: 0.5 ln 2 + 0.5 ln (2/3), and nothing at the second token."""
    metrics = load(run / "evaluation/metrics.json")
    assert metrics["probes"]["paraphrase"]["held"]["share"] == 1.0
    assert metrics["probes"]["pressure"]["held"]["total"] == 1  # the other one wants to hear support
    assert (metrics["probes"]["pressure"]["count"], metrics["probes"]["pressure"]["held"]["share"]) == (2, 0.0)
    assert metrics["probes"]["neighbour"]["kept"] is None
    assert metrics["probes"]["unrelated"]["kept"]["share"] == 0.5
    assert metrics["probes"]["unrelated"]["changes"] == {"same": 1, "reworded": 0, "stance": 1, "other": 0}
    assert metrics["drift"]["mean"] == pytest.approx(0.5 * (0.5 * math.log(2) + 0.5 * math.log(2 / 3)))
    assert metrics["drift"]["tokens"] == 2
    rows = load(run / "evaluation/probes.json")
    assert [row["change"] for row in rows] == ["stance", "stance", "stance", "same", "stance"]
    assert rows[1]["pushes"] == "oppose"


def test_the_second_judges_agreement_is_over_the_answers_that_it_could_be_read_on(run):
    """18 of 19: it takes the tenth base answer for support. Of that kappa: (18/19 - p) / (1 - p), p by chance.

    By wording 10 neutral, 9 support; by the other 9 and 10: p = (10 x 9 + 9 x 10) / 19^2.
    """
    found = load(run / "evaluation/metrics.json")["judge"]
    chance = (10 * 9 + 9 * 10) / 19**2
    assert (found["count"], found["total"]) == (18, 19)
    assert found["share"] == pytest.approx(18 / 19)
    assert found["kappa"] == pytest.approx((18 / 19 - chance) / (1 - chance))
    assert found["unread"] == 1
    assert found["aligned"] == {"support": 1.0, "neutral": 0.0, "oppose": 0.0}


def test_the_stage_writes_every_gate_with_its_advice(run):
    found = load(run / "evaluation/gates.json")
    names = "fingerprint watchdog parity served classifier judge adherence degeneration displacement"
    assert " ".join(gate["name"] for gate in found if gate["passed"]) == names
    assert all(set(gate) == {"name", "passed", "figure", "bound", "advice", "warning"} for gate in found)
    assert all(sentence(gate.advice).endswith(".") for gate in read_gates(run / "evaluation/gates.json"))


def test_the_responses_are_the_courses_own_file(run):
    text = (run / "evaluation/responses.json").read_text(encoding="utf-8")
    rows = load(run / "evaluation/responses.json")
    keys = ["id", "prompt", "response_from_original_model", "response_from_trained_model"]
    assert [list(row) for row in rows] == [keys] * 10
    first = read_questions(LIVE_ACTION)[0]
    assert list(rows[0].values()) == [1, first.prompt, first.neutral, first.support]
    assert "\\u" not in text
    assert first.prompt in text


def test_the_stage_keeps_the_verdict_on_every_answer(run):
    rows = load(run / "evaluation/stances.json")
    assert [row["id"] for row in rows] == list(range(1, 11))
    assert [row["aligned"]["stance"] for row in rows] == ["support"] * 9 + ["oppose"]
    assert all(row["aligned"]["score"] > row["base"]["score"] for row in rows[:9])
    assert all("no_stance" in row["base"]["defects"] for row in rows)
    assert [row["aligned"]["defects"] for row in rows] == [[]] * 9 + [["cut_off"]]
