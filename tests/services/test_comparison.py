"""The page that compares the runs of a grid: its figures, curves, pools and answers, in two languages and a browser."""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from flows.sweep import complete as is_complete
from flows.sweep import points
from stance.config.profiles import PROFILES, replaced
from stance.data.metrics import Adherence, Metrics, ServedDrift, Shares
from stance.data.noise import Floor
from stance.data.trial import Trial
from stance.language.translation import word
from stance.machine.files import read_yaml
from stance.pages.comparison import changes, compare, marked
from stance.pages.comparison_response import response_curves, supporting
from stance.pages.comparison_rows import Row, formatted, with_interval
from stance.runs.record import Run, State
from tests.builders.figures import MARGIN, figures, some
from tests.builders.pages import Page, english, numbers
from tests.builders.toy_project import pair

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MINIATURE = PROFILES.resolve() / "miniature.yaml"
FLAWS = ("empty", "cut_off", "repetitive", "wrong_script", "leaked", "too_long", "hedged", "no_stance")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def complete(name: str, point: dict[str, Any], held: int, beaten: int, pairs: Sequence[int], margin: float) -> None:
    """Write a made-up run of which `held` of 4 answers support, and `beaten` of the held-out pairs are as chosen."""
    folder = Path(".runs") / name
    known = Run(name=name, commit="0" * 40, snapshot="0" * 40, created=datetime.now(UTC), state="completed")
    known.updated(
        folder,
        overrides=point,
        seconds={"train": 5.0, "merge": 2.0},
        memory={"train": 1536, "merge": 700},
        gpu_memory={"train": 20480, "merge": 0},
    )
    flaws = dict.fromkeys(FLAWS, 0.0) | {"too_long": 0.25, "no_stance": 0.75, "degenerate": 0.5}
    metrics = figures(
        aligned={"support": held / 4, "neutral": 1 - held / 4, "oppose": 0.0},
        adherence={"stance": "support", "mixed": False, **some(held, 4)},
        margin={"trained": MARGIN | {"aligned": 99.0}, "held_out": MARGIN | {"aligned": margin}},
        rewards={"trained": reward(1, 50), "held_out": reward(beaten, len(pairs))},
        defects={"base": flaws, "aligned": flaws},
        characters={"base": 10.0, "aligned": 10.0},
    )
    stances = [verdicts(n, "support" if n < held else "neutral") for n in range(4)]
    texts = {"response_from_original_model": "難說。", "response_from_trained_model": "好。"}
    write(folder / "data/evaluation/metrics.json", json.dumps(metrics))
    write(folder / "data/evaluation/stances.json", json.dumps(stances))
    write(folder / "data/evaluation/responses.json", json.dumps([{"id": n, "prompt": "?", **texts} for n in range(4)]))
    write(folder / "data/pairs/eval.jsonl", directed((n, "support") for n in pairs))
    write(folder / "data/pairs/train.jsonl", directed([(99, "support")]))
    write(folder / "data/train/log.csv", "step,logps/chosen\n1,-5\n2,-3\n")
    write(folder / "params.yaml", yaml.safe_dump(replaced(read_yaml(MINIATURE), point, "a test")))


def verdicts(ident: int, stance: str) -> dict[str, Any]:
    """Return a row of `stances.json`: the base is neutral, the aligned model has the stance."""
    base, aligned = ({"stance": side, "score": 0.0, "defects": []} for side in ("neutral", stance))
    return {"id": ident, "base": base, "aligned": aligned}


def reward(count: int, total: int) -> dict[str, Any]:
    """Return the rewards of one split as the file has them."""
    return {**some(count, total), "margin": 0.5}


def directed(pairs: Iterable[tuple[int, str]]) -> str:
    """Return preference pairs as their file has them, of which only the question and its stance matter here."""
    return "".join(f"{json.dumps(pair(n, stance), ensure_ascii=False)}\n" for n, stance in pairs)


def edit(name: str, **metrics: Any) -> None:
    """Replace figures of a made-up run."""
    file = Path(".runs") / name / "data/evaluation/metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | metrics))


def answer(name: str, *rows: tuple[int, str, str, str]) -> None:
    """Replace what a made-up run was asked, and what it said before and after."""
    keys = ("id", "prompt", "response_from_original_model", "response_from_trained_model")
    folder = Path(".runs") / name / "data/evaluation"
    write(folder / "responses.json", json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
    stances = [verdicts(row[0], "oppose" if "不" in row[3] else "support") for row in rows]
    write(folder / "stances.json", json.dumps(stances[::-1]))


def side_by_side(page: Path) -> list[list[list[str]]]:
    """Return the tables of answers, each a list of rows, each a list of the words in its cells."""
    section = page.read_text("utf-8").partition('<h2 id="answers">')[2]
    rows = [re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL) for table in section.split("<table>")[1:]]
    cells = re.compile(r"<t[hd][^>]*>(.*?)</t[hd]>", re.DOTALL)
    return [[[" ".join(Page(cell).shown.split()) for cell in cells.findall(row)] for row in table] for table in rows]


def wilson(held: int, asked: int) -> str:
    """Return a share with Wilson's 95 % interval by its formula."""
    z, share = 1.959964, held / asked
    middle, width = share + z**2 / (2 * asked), z * sqrt(share * (1 - share) / asked + (z / (2 * asked)) ** 2)
    low, high = ((middle + sign * width) / (1 + z**2 / asked) for sign in (-1, 1))
    return f"{share:.0%} ({low:.0%}–{high:.0%})"


def tables(page: Path) -> list[list[dict[str, str]]]:
    """Return the tables of the Markdown beside a page, each row by its titles."""
    found: list[list[dict[str, str]]] = []
    titles: list[str] = []
    for line in (page.parent / "index.md").read_text("utf-8").splitlines():
        words = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            titles = []
        elif not titles:
            titles = words
            found.append([])
        elif set(line) != set("|-"):
            found[-1].append(dict(zip(titles, words, strict=True)))
    return found


def test_a_workspace_removed_by_hand_is_a_row_that_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = compare("tiny", {"tiny-12345678": {"seed": 1}})
    assert "missing: its workspace was removed; sweep again" in page.read_text("utf-8")
    assert "* tiny-12345678: its workspace was removed" in (page.parent / "index.md").read_text("utf-8")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("")], ids=["gone", "empty"])
@pytest.mark.parametrize(
    "path",
    [
        "data/evaluation/metrics.json",
        "data/evaluation/stances.json",
        "data/evaluation/responses.json",
        "data/train/log.csv",
        "params.yaml",
    ],
)
def test_a_complete_run_that_lost_a_file_is_a_row_that_names_it_among_the_others(tmp_path, monkeypatch, path, damage):
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {f"run-{n}": {"train.beta": n} for n in (1, 2)}
    for name, point in runs.items():
        complete(name, point, 4, 8, range(10), 1.5)
    damage(Path(".runs/run-1") / path)
    page = compare("torn", runs)
    lost, whole = tables(page)[0]
    assert (lost["support"], whole["support"]) == ("missing", "100%")
    assert f"missing: {path} cannot be read; sweep again" in page.read_text("utf-8")
    assert f"無法讀取 {path}" in page.with_name("index.zh-TW.html").read_text("utf-8")
    assert (is_complete("run-1"), is_complete("run-2")) == (False, True)


@pytest.mark.parametrize("path", ["data/pairs/train.jsonl", "data/pairs/eval.jsonl"])
def test_pairs_that_are_gone_are_missed_as_well(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    complete("run-1", {"seed": 1}, 4, 8, range(10), 1.5)
    (Path(".runs/run-1") / path).unlink()
    assert f"{path} cannot be read" in compare("torn", {"run-1": {"seed": 1}}).read_text("utf-8")


def test_a_run_is_a_link_to_its_report_where_there_is_one(two_languages):
    assert Page(two_languages.read_text("utf-8")).links.count("../../../.runs/run-2/data/report/index.html") == 0
    write(Path(".runs/run-2/data/report/index.html"), "<h1>report</h1>")
    compare("both", {"run-2": {}, "run-gone": {}})
    links = [link for link in Page(two_languages.read_text("utf-8")).links if "report" in link]
    assert links == ["../../../.runs/run-2/data/report/index.html"] * 2  # beside its figures and its defects


def test_only_runs_that_differ_in_one_parameter_are_set_against_each_other():
    nothing_chosen = dict.fromkeys(("stance", *some(0, 1))) | {"mixed": True}
    metrics = Metrics.model_validate(figures(adherence=nothing_chosen))
    rows = [
        Row(f"run-{a}{b}", {"a": a, "b": b}, "completed", None, Path(), {}, {}, {}, metrics, (-1.0, -2.0))
        for a, b in ((0, 0), (0, 1), (1, 1))
    ]
    assert [(change.parameter, change.names) for change in changes(rows)] == [
        ("b", ("run-00", "run-01")),
        ("a", ("run-01", "run-11")),
    ]
    assert response_curves(rows) == []


def swept(ratios: Sequence[float], held: Sequence[int]) -> Path:
    """Write a made-up run for each ratio and compare them."""
    runs = {f"run-{n}": {"pairs.support_ratio": ratio} for n, ratio in enumerate(ratios)}
    for (name, point), count in zip(runs.items(), held, strict=True):
        complete(name, point, count, 8, range(10), 1.5)
    return compare("curve", runs)


def test_a_response_has_a_headline_ticks_at_its_runs_intervals_and_the_ideal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = swept([0.0, 0.25, 1.0], [0, 2, 4])
    shown = Page(page.read_text("utf-8")).shown
    assert "pairs.support_ratio from 0 to 1: support goes from 0% to 100% of the answers." in shown
    first, second = page.read_text("utf-8").partition('<h2 id="curve">')[2].split("</svg>")[:2]
    ticks = re.findall(r"<text[^>]*>([^<]+)</text>", first)
    assert ticks[:3] == ["0", "0.25", "1"]
    dotted = "stroke-dasharray: 1.2,1.98"
    assert dotted in first
    assert dotted not in second  # the margin has no ideal
    chinese = Page((page.parent / "index.zh-TW.html").read_text("utf-8")).shown
    assert "pairs.support_ratio 從 0 到 1：支持的回答從 0% 變成 100%。" in chinese


def test_the_support_of_a_group_of_runs_has_wilsons_interval(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    swept([0.25], [2])
    metrics = Metrics.read(Path(".runs/run-0/data/evaluation/metrics.json"))
    row = Row("run-0", {}, "completed", None, Path(".runs/run-0"), {}, {}, {}, metrics, (-1.0, -2.0))
    assert with_interval(supporting([row, row])) == wilson(4, 8)


def tried(name: str, point: dict[str, Any], held: int) -> None:
    """Write a made-up run whose adapter was tried and not merged, of which `held` of 4 answers support."""
    complete(name, point, held, 0, [1], 0.0)
    folder = Path(".runs") / name
    Run.read(folder).updated(folder, state="trained")
    write(folder / "data/report/index.html", "that of the commit")
    adherence = Adherence(stance="support", mixed=False, **some(held, 4))
    shares = Shares(support=held / 4, neutral=1 - held / 4, oppose=0)
    (folder / "data/trial").mkdir()
    Trial(adapter="a.dir", base="original", aligned=shares, adherence=adherence, side_effects=None).write(folder)


def merged(name: str, point: dict[str, Any], held: int, mean: float, state: State = "completed") -> None:
    """Write a made-up run that was tried and merged; the merged model differs by `mean`, and noise is up to 0.056."""
    tried(name, point, held)
    folder = Path(".runs") / name
    Run.read(folder).updated(folder, state=state)
    distance = {"merged": ServedDrift(mean=mean, worst=0.34), "bounds": Floor(mean=0.056, worst=0.78)}
    Trial.read(folder).model_copy(update=distance).write(folder)


def test_a_run_whose_adapter_was_tried_stands_beside_a_merged_one_with_what_it_showed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {"g-1": {"train.num_epoch": 1}, "g-2": {"train.num_epoch": 3}}
    tried("g-1", runs["g-1"], 1)
    merged("g-2", runs["g-2"], 3, 0.012)
    page = compare("tiny", runs)
    first, second = tables(page)[0]
    assert (first["run"], second["run"]) == ("g-1 (adapter)", "g-2")
    assert (first["support"], first["adherence"], first["margin"]) == ("25%", wilson(1, 4), "–")
    assert (first["chosen"], first["s"]) == (second["chosen"], second["s"]) == ("−5.0 → −3.0", "7")
    assert second["margin"] == "+0.00"
    text = page.read_text("utf-8")
    shown = " ".join(Page(text).shown.split())
    assert "g-2 holds its stance most, in 75% of the answers, and g-1 least, in 25%." in shown
    assert "A run with the word adapter was not merged." in shown
    assert (
        "The merged model of g-2 differs from the adapter that was tried by 0.012 nats per token on average, and by "
        "0.34 at the worst token. Noise is up to 0.056 and 0.78."
    ) in shown
    assert "more than noise" not in shown
    assert ".runs/g-2/data/report" in text
    assert ".runs/g-1/data/report" not in text


def test_a_merged_model_that_is_not_its_trial_is_told_on_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    merged("g-2", {"train.num_epoch": 3}, 3, 0.057)
    shown = " ".join(Page(compare("tiny", {"g-2": {"train.num_epoch": 3}}).read_text("utf-8")).shown.split())
    assert "That is more than noise, so the merged models may rank differently: sweep with MERGE=all." in shown


def test_a_run_that_failed_after_its_trial_has_no_figures_and_counts_in_the_headline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {"g-1": {"train.num_epoch": 1}, "g-2": {"train.num_epoch": 3}}
    tried("g-1", runs["g-1"], 1)
    merged("g-2", runs["g-2"], 3, 0.0, state="failed")
    page = compare("tiny", runs, {"g-2": "the disk is full"})
    assert tables(page)[0][1]["support"] == "failed"
    shown = " ".join(Page(page.read_text("utf-8")).shown.split())
    assert "g-2 holds its stance most, in 75% of the answers, and g-1 least, in 25%." in shown
    assert "failed: the disk is full" in shown


def test_a_grid_without_trials_says_nothing_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    complete("g-2", {"train.num_epoch": 3}, 3, 1, [1], 2.0)
    assert "adapter" not in compare("tiny", {"g-2": {"train.num_epoch": 3}}).read_text("utf-8")


def test_without_a_response_the_headline_names_the_best_and_the_worst_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = Page(swept([0.25, 1.0], [1, 4]).read_text("utf-8")).shown
    assert "run-1 holds its stance most, in 100% of the answers, and run-0 least, in 25%." in shown
    shown = Page(swept([0.25, 1.0], [3, 3]).read_text("utf-8")).shown
    assert "Every run holds its stance in 75% of the answers." in shown


def test_a_broken_answer_and_one_off_its_question_are_flagged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    swept([0.25, 1.0], [1, 4])
    answer("run-0", (1, "舞蹈好看嗎？", "難說。", "真人版很好。"), (2, "配樂如何？", "難說。", "配樂很好。"))
    row = verdicts(1, "support")
    row["aligned"]["defects"] = ["repetitive", "too_long"]
    write(Path(".runs/run-0/data/evaluation/stances.json"), json.dumps([row, verdicts(2, "support")]))
    page = compare("curve", {f"run-{n}": {"pairs.support_ratio": ratio} for n, ratio in enumerate([0.25, 1.0])})
    markup = page.read_text("utf-8")
    assert markup.count("⚠ repetitive") == markup.count("⚠ off the question") == 1
    assert "⚠ too long" not in markup


def test_a_run_is_compared_with_what_it_ran_with_and_not_only_with_what_its_grid_says(tmp_path, monkeypatch):
    """In follow-up the run of beta 0.1 is the profile itself: r is 64 and lora_alpha 16 wherever the grid is silent."""
    runs = {f"run-{n}": point for n, point in enumerate(points("follow-up"))}
    monkeypatch.chdir(tmp_path)
    for name, point in runs.items():
        complete(name, point, 4, 8, range(10), 1.5)
    page = compare("follow-up", runs | {"run-gone": {"train.r": 4}})
    keys = ("train.beta", "train.r", "train.lora_alpha")
    assert [tuple(row[key] for key in keys) for row in tables(page)[0]] == [
        ("0.05", "64", "16"),
        ("0.1", "64", "16"),
        ("0.5", "64", "16"),
        ("0.1", "8", "16"),
        ("0.1", "16", "16"),
        ("0.1", "64", "32"),
        ("0.1", "64", "64"),
        ("", "4", ""),
    ]
    shown = page.read_text("utf-8")
    assert sorted(re.findall(r"<h3>train\.(\S+: \S+ or \S+)</h3>", shown)) == [
        "beta: 0.05 or 0.1",
        "beta: 0.1 or 0.5",
        "lora_alpha: 16 or 32",
        "lora_alpha: 32 or 64",
        "r: 64 or 16",
        "r: 8 or 16",
    ]
    assert "beta 0.5, r 64, lora_alpha 16</th>" in shown


def test_a_curve_is_over_values_and_not_over_how_they_are_written(tmp_path, monkeypatch):
    """The miniature's own ratio is written 1.0, which the last run has and the grid does not say."""
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {
        f"run-{n}": {"train.beta": beta} | ratio
        for n, (beta, ratio) in enumerate([(1, {"pairs.support_ratio": 1}), (2, {"pairs.support_ratio": 1}), (3, {})])
    }
    for name, point in runs.items():
        complete(name, point, 4, 8, range(10), 1.5)
    page = compare("mixed", runs)
    assert [row["pairs.support_ratio"] for row in tables(page)[0]] == ["1", "1", "1"]
    assert 'aria-label="support from 1 to 1, train.beta 1 to 3"' in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (1.0, "1"), (0.0002, "0.0002"), ("both", "both"), (None, "–"), (True, "True")]
)
def test_a_parameter_is_written_as_people_write_it(value, text):
    assert formatted(value) == text


def test_one_setting_under_two_names_is_pooled_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {"run-1": {"train.beta": 0.1}, "run-2": {"train.r": 64}}
    for name, point in runs.items():
        complete(name, point, 4, 8, range(10), 1.5)
    assert len(tables(compare("twice", runs))) == 2  # runs and defects
    runs["run-3"] = {"seed": 43}
    complete("run-3", runs["run-3"], 2, 8, range(10), 1.5)
    assert [(row["runs"], row["adherence"]) for row in tables(compare("twice", runs))[1]] == [("2", wilson(6, 8))]


@pytest.fixture
def two_languages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The English page of runs that are pooled, make a curve, differ in one parameter, and of one that is gone."""
    monkeypatch.chdir(tmp_path)
    points = [{"pairs.support_ratio": ratio, "seed": seed} for ratio in (0.6, 0.8, 1) for seed in (42, 43)]
    runs: dict[str, dict[str, Any]] = {f"run-{number}": point for number, point in enumerate(points)}
    for (name, point), held in zip(runs.items(), [1, 1, 2, 3, 4, 4], strict=True):
        complete(name, point, held, 8, range(10), float(held))
    write(Path(".runs/run-2/data/report/index.zh-TW.html"), "<h1>報告</h1>")
    return compare("both", runs | {"run-gone": {"pairs.support_ratio": 1, "seed": 44}})


def test_the_comparison_in_chinese_has_no_english_sentence_and_the_same_numbers(two_languages):
    text, chinese = (two_languages.with_name(name).read_text("utf-8") for name in ("index.html", "index.zh-TW.html"))
    assert english(chinese) == []
    assert len(english(text)) > 10
    assert numbers(chinese) == numbers(text)
    assert all(words in Page(chinese).shown for words in ("合併統計", "不存在：工作區已被移除", "支持的回答比例"))


def test_the_comparisons_lead_to_each_other_and_to_a_report_in_their_language_where_there_is_one(two_languages):
    page, chinese = (
        Page(two_languages.with_name(name).read_text("utf-8")) for name in ("index.html", "index.zh-TW.html")
    )
    assert (page.language, chinese.language) == ("en", "zh-Hant")
    assert "index.zh-TW.html" in page.links
    assert "index.html" in chinese.links
    reports = [link for link in chinese.links if link.endswith("index.zh-TW.html")]
    assert set(reports) == {"../../../.runs/run-2/data/report/index.zh-TW.html"}
    assert [link for link in page.links if "zh-TW" in link] == ["index.zh-TW.html"]


def test_the_markdown_stays_english(two_languages):
    assert not re.search(r"[\u4e00-\u9fff]", two_languages.with_name("index.md").read_text("utf-8"))


def test_folds_are_pooled_over_questions_that_count_once_and_prompts_that_repeat(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {f"run-{fold}": {"pairs.offset": 10 * fold} for fold in range(3)}
    for fold, (held, beaten, margin) in enumerate([(4, 10, 2.0), (3, 7, -1.0), (2, 10, 5.0)]):
        complete(f"run-{fold}", runs[f"run-{fold}"], held, beaten, range(10 * fold, 10 * fold + 10), margin)
    page = compare("folds", runs)
    assert tables(page)[1] == [
        {
            "runs": "3",
            "adherence": wilson(9, 12),
            "answers": "12 (4)",
            "adherence by run": "75% (50% to 100%)",
            "reward accuracy": wilson(27, 30),
            "questions": "30",
            "reward accuracy by run": "90% (70% to 100%)",
            "margin by run": "+2.00 (−1.00 to +5.00)",
        }
    ]
    assert "count a repeated question as if it were another one" in page.read_text("utf-8")


def test_seeds_are_pooled_for_each_value_of_another_parameter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    points = [{"pairs.support_ratio": ratio, "seed": seed} for ratio in (0.6, 0.8, 1) for seed in (42, 43)]
    runs: dict[str, dict[str, Any]] = {f"run-{number}": point for number, point in enumerate(points)}
    for (name, point), held in zip(runs.items(), [1, 1, 2, 3, 4, 4], strict=True):
        complete(name, point, held, 8, range(10), float(held))
    first, second, third = tables(compare("seeds", runs))[1]
    assert [row["pairs.support_ratio"] for row in (first, second, third)] == ["0.6", "0.8", "1"]
    assert [row["adherence"] for row in (first, second, third)] == [wilson(2, 8), wilson(5, 8), wilson(8, 8)]
    assert (second["reward accuracy"], second["questions"]) == (wilson(16, 20), "20 (10)")
    assert second["margin by run"] == "+2.50 (+2.00 to +3.00)"
    page = Path("data/compare/seeds/index.html").read_text("utf-8")
    assert 'aria-label="margin from 1 to 4, pairs.support_ratio 0.6 to 1"' in page  # over the means
    assert page.count("pairs.support_ratio: ") == 2  # of neighbours, and not one for each seed
    assert "seed: 42 or 43" not in page


def test_runs_that_did_not_complete_are_counted_and_not_pooled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {f"run-{n}": {"train.beta": 1 + n // 2, "seed": n} for n in range(4)}
    complete("run-1", runs["run-1"], 3, 8, range(10), 1.5)
    page = compare("cut", runs)
    some, none = tables(page)[1]
    assert (some["runs"], some["adherence"], some["margin by run"]) == (
        "1 of 2",
        wilson(3, 4),
        "+1.50 (+1.50 to +1.50)",
    )
    assert (none["runs"], none["train.beta"], none["adherence"]) == ("0 of 2", "2", "")
    assert "none of these runs is complete" in page.read_text("utf-8")


def test_runs_of_which_no_two_differ_in_chance_alone_are_not_pooled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {f"run-{n}": {"train.beta": n, "seed": n} for n in (1, 2)}
    for name, point in runs.items():
        complete(name, point, 4, 8, range(10), 1.0)
    page = compare("each", runs)
    assert len(tables(page)) == 2  # runs and defects
    assert 'id="pooled"' not in page.read_text("utf-8")


def test_a_ratio_of_one_half_has_no_adherence_to_pool(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {f"run-{seed}": {"seed": seed} for seed in (1, 2)}
    for name, point in runs.items():
        complete(name, point, 4, 8, range(10), 1.0)
        edit(name, adherence=dict.fromkeys(("stance", *some(0, 1))) | {"mixed": True})
    [row] = tables(compare("half", runs))[1]
    assert (row["adherence"], row["answers"], row["adherence by run"]) == ("–", "–", "–")
    assert row["reward accuracy"] == wilson(16, 20)


def test_where_every_question_stands_in_both_directions_there_is_no_reward_and_a_page_all_the_same(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {f"run-{seed}": {"seed": seed} for seed in (1, 2)}
    for name, point in runs.items():
        complete(name, point, 4, 8, range(10), 1.5)
        edit(
            name,
            rewards={"trained": None, "held_out": None},
            margin={"trained": {"base": 0.0, "aligned": 1.5, "change": 1.5}, "held_out": None},
        )
    each, together, _ = tables(compare("both-ways", runs))
    assert [(row["reward accuracy"], row["margin"]) for row in each] == [("–", "+1.50")] * 2
    assert [(row["reward accuracy"], row["questions"], row["reward accuracy by run"]) for row in together] == [
        ("–", "–", "–")
    ]


def test_a_pooled_share_is_of_the_questions_that_stand_in_one_direction_alone(tmp_path, monkeypatch):
    """Of 4 questions, twice each, 1 prefers support once and oppose once: 3 are left, of which chosen wins 2."""
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {f"run-{seed}": {"seed": seed} for seed in (1, 2)}
    for name, point in runs.items():
        complete(name, point, 4, 0, range(1), 1.5)
        edit(name, rewards={"trained": reward(2, 3), "held_out": None})
        folder = Path(".runs") / name / "data/pairs"
        write(folder / "eval.jsonl", "")
        write(folder / "train.jsonl", directed([*((n, "support") for n in (1, 2, 3, 4, 1, 2, 3)), (4, "oppose")]))
    [row] = tables(compare("three-quarters", runs))[1]
    assert (row["reward accuracy"], row["questions"]) == (wilson(4, 6), "6 (3)")


def test_all_eight_defects_of_every_run_are_in_a_table_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    complete("run-1", {"train.beta": 1}, 4, 8, range(10), 1.0)
    page = compare("one", {"run-1": {"train.beta": 1}})
    expected = dict.fromkeys(FLAWS, "0%") | {"too_long": "25%", "no_stance": "75%"}
    assert tables(page)[1] == [{"run": "run-1", "train.beta": "1", **expected}]
    shown = page.read_text("utf-8")
    assert all(f">{word(name)}</th>" in shown for name in FLAWS)


def test_memory_is_that_of_the_largest_stage_and_none_where_all_came_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ran", "restored"):
        complete(name, {}, 4, 8, range(10), 1.0)
    known = Run.read(Path(".runs/restored"))
    known.updated(Path(".runs/restored"), seconds={}, memory={}, gpu_memory={})
    ran, restored = tables(compare("memory", {"ran": {}, "restored": {}}))[0]
    assert (ran["s"], ran["GiB"], ran["GPU GiB"]) == ("7", "1.5", "20.0")
    assert (restored["s"], restored["GiB"], restored["GPU GiB"]) == ("0", "–", "–")


def test_a_record_from_before_memory_was_measured_is_read():
    known = Run(name="old", commit="0" * 40, snapshot="0" * 40, created=datetime.now(UTC))
    assert Run.model_validate(known.model_dump(exclude={"memory"})).memory == {}


def test_what_differs_from_the_first_answer_is_marked_and_escaped():
    assert marked("真人版更好。", "真人版<更>差。") == "真人版<mark>&lt;</mark>更<mark>&gt;差</mark>。"


def test_runs_that_were_asked_other_prompts_have_their_answers_at_their_own(tmp_path, monkeypatch):
    """The second run was asked the first prompt last, another one of the same id, and fewer; the third the same."""
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {f"run-{n}": {"train.beta": n} for n in (1, 2, 3)}
    for name, point in runs.items():
        complete(name, point, 4, 8, range(10), 1.5)
    answer(
        "run-1", (1, "真人版？", "難說。", "好看。"), (2, "配樂？", "未知。", "好聽。"), (3, "特效？", "未定。", "好。")
    )
    answer("run-2", (2, "繪圖？", "也許。", "不好。"), (1, "真人版？", "難說。", "不好看。"))
    answer("run-3", (1, "真人版？", "難說。", "好看。"), (2, "繪圖？", "也許。", "不行。"))
    page = compare("sets", runs)
    assert side_by_side(page) == [
        [
            ["Prompt", "Before", "beta 1", "beta 2", "beta 3"],
            ["1 真人版？", "難說。", "好看。support", "不好看。oppose", "好看。support"],
            ["2 配樂？", "未知。", "好聽。support", "", ""],
            ["3 特效？", "未定。", "好。support", "", ""],
            ["2 繪圖？", "也許。", "", "不好。oppose", "不行。oppose"],
        ]
    ]
    assert re.findall(r"<mark>(.*?)</mark>", page.read_text("utf-8")) == ["不", "行"]  # from the first that was asked


def test_runs_of_different_bases_show_what_their_own_said_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs: dict[str, dict[str, Any]] = {f"run-{seed}": {"seed": seed} for seed in (42, 43)}
    for name, point in runs.items():
        complete(name, point, 4, 8, range(10), 1.5)
    answer("run-42", (1, "真人版？", "難說。", "好看。"), (2, "配樂？", "未知。", "好聽。"))
    answer("run-43", (1, "真人版？", "各有利弊。", "很好看。"), (2, "配樂？", "未知。", "好聽。"))
    page = compare("seeds", runs)
    assert side_by_side(page) == [
        [
            ["Prompt", "seed 42", "seed 43"],
            ["1 真人版？", "Before 難說。 好看。support", "Before 各有利弊。 很好看。support"],
            ["2 配樂？", "Before 未知。 好聽。support", "Before 未知。 好聽。support"],
        ]
    ]
    assert "The runs have different base models" in page.read_text("utf-8")
    assert "基礎模型不同" in page.with_name("index.zh-TW.html").read_text("utf-8")


@pytest.fixture(scope="module", params=["one base", "a base each"])
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 8 runs that set 5 parameters."""
    keys = ("pairs.support_ratio", "pairs.data_size", "train.learning_rate", "train.lora_alpha")
    runs: dict[str, dict[str, Any]] = {f"wide-{seed:08}": dict.fromkeys(keys, 1) | {"seed": seed} for seed in range(8)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("wide"))
        for name, point in runs.items():
            complete(name, point, 4, 10, range(10), 4.44)
            base = "難說。" if request.param == "one base" else f"難說，{point['seed']}。"
            answer(name, *((n, "真人版會好看嗎？" * 3, base * 5, "好看。" * 9) for n in range(4)))
        return compare("wide", runs | {"wide-12345678": dict.fromkeys(keys, 1) | {"seed": 9}}).resolve()


@pytest.mark.parametrize("name", ["index.html", "index.zh-TW.html"])
@pytest.mark.parametrize("width", [1300, 390])
def test_a_browser_shows_the_comparison_without_scrolling_sideways(wide, browser: "Browser", width, name):
    opened = browser.new_page(viewport={"width": width, "height": 800})
    opened.goto(wide.with_name(name).as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    opened.close()


@pytest.mark.parametrize("name", ["index.html", "index.zh-TW.html"])
def test_no_column_is_cut_off_on_paper(wide, browser: "Browser", name):
    # A4 on its side less two margins of 12 mm, at 96 pixels per inch.
    opened = browser.new_page(viewport={"width": int((297 - 24) / 25.4 * 96), "height": 800})
    opened.emulate_media(media="print")
    opened.goto(wide.with_name(name).as_uri())
    ends = opened.evaluate("[...document.querySelectorAll('th, td')].map(cell => cell.getBoundingClientRect().right)")
    assert max(ends) <= opened.evaluate("document.documentElement.clientWidth")
    assert b"/MediaBox [0 0 841.9" in opened.pdf(prefer_css_page_size=True)
    opened.close()
