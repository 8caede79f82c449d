"""Pages as a browser and as a person read them."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SENTENCE = re.compile(r"[A-Za-z]+(?:[,;:.]? [A-Za-z]+){2,}")
QUOTED = ("style", "code", "pre")
SPOKEN = ("aria-label", "data-label", "alt")
"""Attributes that hold words for people."""


class Page(HTMLParser):
    """What a page shows, what it points at, and the names that it gives its elements."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.language: str | None = None
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.titles: list[str] = []
        self.spoken: list[str] = []
        self.shown = ""
        self.own: list[str] = []
        self.within: list[str] = []
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in QUOTED:
            self.within.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.links.append(value or "")
            elif name == "id":
                self.ids.append(value or "")
            elif name == "title":
                self.titles.append(value or "")
            elif name in SPOKEN:
                self.spoken.append(value or "")
            elif name == "lang" and tag == "html":
                self.language = value

    def handle_endtag(self, tag: str) -> None:
        if tag in QUOTED:
            self.within.pop()

    def handle_data(self, data: str) -> None:
        self.shown += data
        if not self.within:
            self.own.append(data)


def english(markup: str) -> list[str]:
    """Return three and more English words in a row, wherever they are neither code nor quoted as such."""
    page = Page(markup)
    texts = [re.sub(r"`[^`]*`", "", text) for text in (*page.own, *page.spoken)]
    return [found for text in texts for found in SENTENCE.findall(text)]


def numbers(markup: str) -> Counter[str]:
    """Return how often a page shows each number."""
    return Counter(re.findall(r"\d+(?:\.\d+)?", Page(markup).shown))


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Open the system's Chromium until the block ends."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()
