"""The ranking page in the browser: by keys alone, by mouse, two voters at once, and no vote is lost."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stance.data.samples import SAMPLES, Samples, write_samples
from stance.data.votes import FILE, VOTES, Vote, read_votes
from stance.machine.ports import free_port
from stance.ranking.command import PAGE
from tests.builders.ranked import sampled

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SHOTS = Path("test-output")
DESKTOP, PHONE = {"width": 1200, "height": 850}, {"width": 390, "height": 844}


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Serve the page from a folder, and return its address and its process."""
    port = free_port()
    command = [sys.executable, "-m", "stance", "rank", str(port)]
    environment = {**os.environ, "NO_COLOR": "1"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            begin = process.stdout.readline()
            assert begin == f"the page shows the answers in {SAMPLES} and writes votes to {VOTES / FILE}\n"
            while "URL" not in (line := process.stdout.readline()):
                assert line, "it has ended"
            yield line.split()[-1], process
        finally:
            process.kill()


def project(folder: Path, rows: Sequence[Samples]) -> Path:
    """Make a folder of the project with sampled answers."""
    for name in ("stance", "params.yaml"):
        (folder / name).symlink_to(Path(name).resolve())
    write_samples(folder / SAMPLES, rows)
    return folder


def questions(number: int) -> list[Samples]:
    texts = ("The best answer.", "A good one. <b>![x](http://127.0.0.1:9/x.png)</b>", "The worst.")
    return [sampled(ident, [f"{text} ({ident})" for text in texts], ident / 10) for ident in range(1, number + 1)]


def votes_in(folder: Path) -> list[Vote]:
    return read_votes(folder / VOTES / FILE)


def enter_name(tab: "Page", address: str, name: str) -> None:
    """Begin by keyboard: the name, and Enter."""
    tab.goto(address)
    field = tab.get_by_role("textbox", name="Your name")
    field.wait_for(timeout=30_000)
    field.press_sequentially(name)
    field.press("Enter")


def shown(tab: "Page", before: str | None = None) -> str:
    """Wait for the next ballot, and return its key."""
    other = f":not([data-key='{before}'])" if before else ""
    ballot = tab.locator(f".ballot[data-key]{other}")
    ballot.wait_for(timeout=30_000)
    return str(ballot.get_attribute("data-key"))


def order(tab: "Page") -> list[int]:
    """Return the number of the best answer, of the second and of the worst one, as the ballot shows them."""
    texts = tab.locator(".card .text").all_text_contents()
    return [next(n for n, text in enumerate(texts, 1) if text.startswith(start)) for start in ("The b", "A", "The w")]


def rank(tab: "Page", key: str) -> str:
    """Rank all answers by keys, and return the key of the next ballot."""
    for number in order(tab):
        tab.keyboard.press(str(number))
    tab.keyboard.press("Enter")
    return shown(tab, key)


def test_streamlit_puts_no_module_of_the_standard_library_into_the_shade():
    """It puts the folder of the page before everything else that is searched for modules."""
    assert not {path.stem for path in Path(PAGE).parent.glob("*.py")} & sys.stdlib_module_names


def test_two_voters_rank_20_questions_by_keys_alone_and_no_vote_is_lost_when_the_page_is_killed(
    tmp_path, browser: "Browser"
):
    folder = project(tmp_path, questions(20))
    requested: list[str] = []
    with served(folder) as (address, process):
        tabs = {name: browser.new_page(viewport=DESKTOP) for name in ("Wang", "Lin")}
        for name, tab in tabs.items():
            tab.on("request", lambda request: requested.append(request.url))
            enter_name(tab, address, name)
        keys = {name: shown(tab) for name, tab in tabs.items()}
        for _ in range(11):
            for name, tab in tabs.items():
                keys[name] = rank(tab, keys[name])
        assert len(votes_in(folder)) == 22
        process.kill()
        assert {urlsplit(url).netloc for url in requested if url.startswith("http")} == {urlsplit(address).netloc}
        for tab in tabs.values():
            tab.close()
    with served(folder) as (address, _process):
        tabs = {name: browser.new_page(viewport=DESKTOP) for name in ("Wang", "Lin")}
        for name, tab in tabs.items():
            tab.goto(f"{address}?voter={name}")
            assert shown(tab) == keys[name]  # it goes on where it stopped
        for _ in range(10):
            for name, tab in tabs.items():
                keys[name] = rank(tab, keys[name])
        for tab in tabs.values():
            for number in order(tab):
                tab.keyboard.press(str(number))
            tab.keyboard.press("Enter")
            tab.get_by_text("Everything is ranked").wait_for(timeout=30_000)
        tabs["Wang"].get_by_text("Results", exact=True).click()
        tabs["Wang"].get_by_text("Pairs that follow: 132").wait_for(timeout=30_000)
        tabs["Wang"].screenshot(path=SHOTS / "rank-results.png", full_page=True)
        for tab in tabs.values():
            tab.close()
    votes = votes_in(folder)
    for name in ("Wang", "Lin"):
        own = [vote for vote in votes if vote.by == name]
        assert (len(own), len({vote.prompt_id for vote in own}), len({vote.seed for vote in own})) == (22, 20, 22)
    best = {row.id: [answer.sha256 for answer in row.answers] for row in questions(20)}
    assert all(sorted(vote.answers, key=best[vote.prompt_id].index) == ranking(vote) for vote in votes)
    assert all(vote.seconds is not None and not vote.is_model for vote in votes)


def ranking(vote: Vote) -> list[str]:
    return [answer for _, answer in sorted(zip(vote.ranks, vote.answers, strict=True))]


def test_ties_all_bad_skip_reason_and_undo_by_keys(tmp_path, browser: "Browser"):
    from playwright.sync_api import expect

    folder = project(tmp_path, questions(3))
    with served(folder) as (address, _process):
        tab = browser.new_page(viewport=DESKTOP)
        enter_name(tab, address, "Wang")
        first = shown(tab)
        tab.keyboard.press("Enter")
        expect(tab.get_by_text("Nothing is ranked yet")).to_be_visible()
        for key in ("2", "t", "3"):
            tab.keyboard.press(key)
        expect(tab.get_by_text("Place 1")).to_have_count(2)
        expect(tab.get_by_text("Pairs that follow: 2 > 1, 3 > 1")).to_be_visible()
        for key in ("z", "z", "3"):  # takes back answer 3 and the tie
            tab.keyboard.press(key)
        tab.keyboard.press("r")
        tab.keyboard.type("1 is wrong; 2 says why, tz")
        tab.keyboard.press("Enter")
        second = shown(tab, first)
        [vote] = votes_in(folder)
        assert (vote.ranks, vote.reason) == ([3, 1, 2], "1 is wrong; 2 says why, tz")
        tab.keyboard.press("b")
        expect(tab.get_by_text("Bad", exact=True)).to_have_count(3)
        tab.keyboard.press("Enter")
        third = shown(tab, second)
        tab.keyboard.press("z")
        assert shown(tab, third) == second
        tab.keyboard.press("z")
        assert shown(tab, second) == first
        expect(tab.get_by_text("Place 1")).to_have_count(1)
        expect(tab.get_by_role("textbox", name="Reason")).to_have_value("1 is wrong; 2 says why, tz")
        tab.keyboard.press("z")
        for key in ("1", "2", "3", "1", "2", "3", "Enter"):  # a number takes its answer back, and then places it anew
            tab.keyboard.press(key)
        assert shown(tab, first) == third
        tab.keyboard.press("s")
        expect(tab.get_by_text("Everything is ranked")).to_be_visible(timeout=30_000)
        expect(tab.get_by_text("Rank the skipped ones (1)")).to_be_visible()
        tab.close()
    [_, bad, corrected, skipped] = votes_in(folder)
    assert (bad.all_bad, bad.ranks) == (True, [1, 1, 1])
    assert (corrected.prompt_id, corrected.seed, corrected.ranks) == (vote.prompt_id, vote.seed, [1, 2, 3])
    assert (skipped.skipped, skipped.ranks) == (True, [])


def test_a_phone_ranks_by_taps_in_chinese_and_an_answer_cannot_format_the_page(tmp_path, browser: "Browser"):
    from playwright.sync_api import expect

    folder = project(tmp_path, questions(2))
    SHOTS.mkdir(exist_ok=True)
    with served(folder) as (address, _process):
        context = browser.new_context(locale="zh-TW", viewport=PHONE, has_touch=True, is_mobile=True)
        tab = context.new_page()
        tab.goto(address)
        field = tab.get_by_role("textbox", name="你的名字")
        field.wait_for(timeout=30_000)
        field.fill("林")
        tab.get_by_role("button", name="開始").tap()
        first = shown(tab)
        expect(tab.get_by_text("A good one. <b>![x](http://127.0.0.1:9/x.png)</b>")).to_be_visible()
        assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        best, good, _worst = order(tab)
        for number in (best, good):
            tab.locator(".card").nth(number - 1).tap()
        expect(tab.get_by_text("第 1 名")).to_be_visible()
        tab.screenshot(path=SHOTS / "rank-phone.png")
        tab.get_by_role("button", name="儲存").tap()
        shown(tab, first)
        context.close()
    [vote] = votes_in(folder)
    assert [vote.ranks[number - 1] for number in (best, good, _worst)] == [1, 2, 3]
    assert vote.by == "林"


def test_what_is_missing_stands_on_the_page_in_a_sentence(tmp_path, browser: "Browser"):
    from playwright.sync_api import expect

    folder = project(tmp_path, questions(1))
    (folder / SAMPLES).unlink()
    with served(folder) as (address, _process):
        tab = browser.new_page(viewport=DESKTOP)
        tab.goto(address)
        expect(tab.get_by_text("does not exist; run dvc repro sample")).to_be_visible(timeout=30_000)
        write_samples(folder / SAMPLES, [sampled(1, ["the only answer"])])
        tab.reload()
        expect(tab.get_by_text("has two answers to rank")).to_be_visible(timeout=30_000)
        tab.close()
