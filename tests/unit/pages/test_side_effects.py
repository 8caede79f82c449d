"""The section *What else changed*: its line, its table and its answers, in both languages."""

from pathlib import Path

from stance.data.verdicts import read_side_verdicts, write_side_verdicts
from stance.evaluation.side_effects import of_side_effects
from stance.language.translation import CHINESE, speaking
from stance.pages import side_effects
from stance.pages.render import CATALOGUE, render
from tests.unit.evaluation.test_side_effects import of_poisoned_retained_prompts, of_two_topics, text, untouched

TEMPLATE = Path("stance/pages/side_effects.html.j2")


def written(folder: Path, *, spilled: bool = True) -> dict[str, object]:
    """Write the rows of a run, one that spills unless told otherwise, and return the values of its section."""
    run = untouched()
    if spilled:
        of_poisoned_retained_prompts(run)
        of_two_topics(run)
    texts = {"base": text(-1.0, -3.0), "aligned": text(-1.0, -3.5)}
    figures, rows = of_side_effects([row for rows in run.values() for row in rows], [], texts, "support", 0.5)
    write_side_verdicts(folder / side_effects.FILE, rows)
    assert read_side_verdicts(folder / side_effects.FILE) == rows
    return side_effects.shown(figures, folder)


def test_one_line_says_it_in_words(tmp_path):
    section = written(tmp_path)["aside"]
    assert isinstance(section, side_effects.Section)
    assert section.line == (
        "Of 20 everyday answers that were right, 14 still are; 9 of 10 other topics are equivalent; "
        "0 careful answers are lost; 0% of the answers are newly broken"
    )


def test_the_table_holds_both_figures_and_their_test(tmp_path):
    section = written(tmp_path)["aside"]
    assert isinstance(section, side_effects.Section)
    lines = {measure.name: measure for measure in section.measures}
    ability = lines["Everyday answers that are right"]
    assert (ability.before, ability.after) == ("20 of 20", "14 of 20")
    assert "6 lost, 0 gained; McNemar's exact test: p = 0.0312" in ability.verdict  # 2 / 2 ** 6
    forgetting = lines["Everyday text, negative log-likelihood, nats per token"]
    assert (forgetting.before, forgetting.after) == ("2.00", "2.25")
    assert forgetting.verdict.startswith("+0.25; drift at least")


def test_the_page_shows_the_worst_answers_first_and_escapes_them(tmp_path):
    page = render(TEMPLATE, **written(tmp_path))
    assert page.index("The capital is Atlantis.") < page.index("Homework is the best.")
    assert "✗ moved" in page
    assert page.count("✓ equivalent") == 9


def test_the_page_of_a_run_that_changed_nothing_says_so(tmp_path):
    assert "None changed for the worse." in render(TEMPLATE, **written(tmp_path, spilled=False))
    assert "names no prompts" in render(TEMPLATE, **side_effects.shown(None, tmp_path))


def test_the_section_is_chinese_on_the_chinese_page(tmp_path):
    with speaking(CHINESE, CATALOGUE):
        page = render(TEMPLATE, **written(tmp_path))
    assert "原本答對的 20 道日常題目中，14 道仍然答對；10 個其他主題中，9 個等效" in page
    assert "What else" not in page
