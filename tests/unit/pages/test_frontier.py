"""The side effects of the runs of a grid: a table, and adherence over what is kept."""

from pathlib import Path

from stance.data.metrics import Metrics
from stance.language.translation import CHINESE, speaking
from stance.pages import frontier
from stance.pages.comparison import page, spilled_in_markdown
from stance.pages.comparison_rows import Row
from stance.pages.render import CATALOGUE
from tests.builders.figures import figures, some
from tests.unit.evaluation.test_side_effects import figures as side_effects
from tests.unit.evaluation.test_side_effects import of_poisoned_retained_prompts, untouched


def row(name: str, held: int, *, spilled: bool = False, asked: bool = True) -> Row:
    """Return a complete run of a grid, `held` of whose 20 answers hold the stance."""
    run = untouched()
    if spilled:
        of_poisoned_retained_prompts(run)
    found = side_effects(run).model_dump() if asked else None
    adherence = {"stance": "support", "mixed": False, **some(held, 20)}
    metrics = Metrics.model_validate(figures(adherence=adherence, side_effects=found))
    return Row(name, {"pairs.retained": held}, "completed", None, Path("none"), {}, {}, {}, metrics, (-9.0, -1.0))


def test_the_picture_holds_every_run_by_its_adherence_and_by_what_is_kept():
    """Of 20 right answers 14 stay right where six are lost."""
    picture = frontier.frontier([row("grid-aaa", 20, spilled=True), row("grid-bbb", 17)])
    assert picture is not None
    assert picture.summary == "aaa 0.7, 1; bbb 1, 0.85"
    assert (picture.label, "aaa" in picture.svg) == ("right everyday answers kept", True)


def test_one_run_or_runs_without_side_effects_make_no_picture():
    assert frontier.frontier([row("grid-aaa", 20)]) is None
    assert frontier.frontier([row("grid-aaa", 20, asked=False), row("grid-bbb", 17, asked=False)]) is None
    assert spilled_in_markdown([row("grid-aaa", 20, asked=False)]) == []


def test_the_table_names_what_else_changed():
    lines = spilled_in_markdown([row("grid-aaa", 20, spilled=True), row("grid-bbb", 17)])
    assert lines[1:3] == ["## What else changed", ""]
    assert lines[5].startswith("| grid-aaa | 20 | 70% (48%–85%) | 10/10 | 0/10 | +0.00 |")


def test_the_page_shows_table_and_picture_in_both_languages(monkeypatch):
    monkeypatch.setattr("stance.pages.comparison.answers", lambda rows: [])
    runs = [row("grid-aaa", 20, spilled=True), row("grid-bbb", 17)]
    assert "Adherence over right everyday answers kept" in page("grid", runs)
    assert "What else changed" not in page("grid", [row("grid-aaa", 20, asked=False)])
    with speaking(CHINESE, CATALOGUE):
        assert "立場符合率與保住的日常答案" in page("grid", runs)
