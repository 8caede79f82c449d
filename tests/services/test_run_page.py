"""The report in the system's own browser."""

from typing import TYPE_CHECKING

import pytest

from tests.unit.pages.test_run_page import CHINESE, answer, made

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["made"]  # a fixture


@pytest.mark.parametrize("name", ["index.html", CHINESE])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_scrolling_sideways_or_fetching(made, browser: "Browser", width, name, tmp_path):
    made.lines("answers/base.jsonl", [answer(n, "長" * 200) for n in (1, 2, 3)])
    made.markup()
    seen: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.append(request.url) if request.url[:5] != "file:" else None)
    page.goto((made.folder / "report" / name).as_uri())
    page.screenshot(path=tmp_path / f"report-{width}.png", full_page=True)
    scrolled = page.evaluate("document.documentElement.scrollWidth")
    page.emulate_media(media="print")
    folded = page.get_by_text("訓練題12？", exact=True).is_visible()
    page.close()
    assert seen == []
    assert scrolled <= width
    assert folded, "what is folded on the screen is open on paper"
