"""The chat page: what it asks, what it shows, and that it needs nothing from anywhere else."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from stance.chat.command import PAGE, command
from stance.data.metrics import CLASSIFIER
from stance.errors import InputError
from stance.machine.ports import free_port
from tests.builders.taught import write_classifier
from tests.doubles.endpoint import KEY, Double

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHOTS = Path("test-output")


@contextmanager
def served(double: Double, folder: Path) -> Iterator[str]:
    """Serve the page from a folder, and return its address."""
    port = free_port()
    environment = {**os.environ, **double.environment, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "stance", "chat", str(port)]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"the page asks {double.url}\n"
        while "URL" not in (line := process.stdout.readline()):
            assert line, "it has ended"
        yield line.split()[-1]
        process.terminate()
        process.communicate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of the project whose judge reads the wording, so that it needs no model."""
    folder = tmp_path_factory.mktemp("chat")
    (folder / "data").mkdir()
    for name in ("stance", "params.yaml", "data/sources"):
        (folder / name).symlink_to(Path(name).resolve())
    write_classifier(Path("data/sources/live_action"), folder / CLASSIFIER)
    return folder


@pytest.fixture(scope="module")
def address(endpoint_server: Double, folder: Path) -> Iterator[str]:
    """Serve the page."""
    with served(endpoint_server, folder) as address:
        yield address


def test_a_port_that_is_taken_is_named_before_anything_starts():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} is in use; .*make chat CHAT_PORT={port + 100}"):
            command(port)


def test_streamlit_puts_no_module_of_the_standard_library_into_the_shade():
    """It puts the folder of the page before everything else that is searched for modules."""
    assert not {path.stem for path in Path(PAGE).parent.glob("*.py")} & sys.stdlib_module_names


def test_a_conversation_in_the_browser_with_nothing_from_elsewhere(address, browser: "Browser", double):
    from playwright.sync_api import expect

    double.models = ["base", "aligned", "r-0f3a9c2b7d11"]
    SHOTS.mkdir(exist_ok=True)
    tab = browser.new_page(viewport={"width": 1200, "height": 800})
    requested: list[str] = []
    tab.on("request", lambda request: requested.append(request.url))
    tab.goto(address)
    expect(tab.get_by_role("textbox", name="System prompt")).to_have_value(
        "Reply in fewer than 20 words.", timeout=30_000
    )
    entry = tab.get_by_placeholder("Ask something")
    entry.fill("真人化好看嗎？")
    entry.press("Enter")
    expect(tab.get_by_text("aligned on 真人化好看嗎？")).to_be_visible(timeout=30_000)
    base, aligned = (tab.get_by_text(f"{name} on 真人化好看嗎？").bounding_box() for name in ("base", "aligned"))
    assert base
    assert aligned
    assert base["x"] + 100 < aligned["x"]
    assert abs(base["y"] - aligned["y"]) < 5
    entry.fill("![picture](http://127.0.0.1:9/x.png) <b>why</b>")
    entry.press("Enter")
    expect(tab.get_by_text("aligned on ![picture](http://127.0.0.1:9/x.png) <b>why</b>")).to_be_visible()
    tab.screenshot(path=SHOTS / "chat.png")
    content = tab.content()
    tab.close()
    second = [asked for asked in double.asked if len(asked["messages"]) == 4]
    assert sorted(asked["model"] for asked in second) == ["aligned", "base"]
    for asked in second:
        assert [message["role"] for message in asked["messages"]] == ["system", "user", "assistant", "user"]
        assert asked["messages"][2]["content"].startswith(asked["model"])
    assert {urlsplit(url).netloc for url in requested if url.startswith("http")} == {urlsplit(address).netloc}
    assert KEY not in content


def test_each_answer_has_the_judges_label_in_the_language_of_the_page(address, browser: "Browser", double):
    from playwright.sync_api import expect

    double.models = ["base", "aligned"]
    context = browser.new_context(locale="zh-TW", viewport={"width": 1200, "height": 800})
    tab = context.new_page()
    tab.goto(address)
    entry = tab.get_by_placeholder("問點什麼")
    entry.fill("真人版非常好看，值得支持，而且很精彩。")
    entry.press("Enter")
    expect(tab.get_by_text(re.compile(r"^(支持|中立|反對) [+\u2212]\d\.\d\d$"))).to_have_count(2, timeout=60_000)
    expect(tab.get_by_role("main")).not_to_contain_text("judge")
    tab.screenshot(path=SHOTS / "chat-labels.png")
    context.close()


def test_the_page_speaks_chinese_to_a_chinese_browser_and_changes_when_asked(address, browser: "Browser", double):
    from playwright.sync_api import expect

    context = browser.new_context(locale="zh-TW", viewport={"width": 1200, "height": 800})
    tab = context.new_page()
    tab.goto(address)
    expect(tab.get_by_role("heading", name="與服務中的模型對話")).to_be_visible(timeout=30_000)
    expect(tab.get_by_placeholder("問點什麼")).to_be_visible()
    expect(tab.get_by_text("啟動端點時加上 --with-base")).to_be_visible()
    tab.screenshot(path=SHOTS / "chat-zh.png")
    tab.get_by_text("English", exact=True).click()
    expect(tab.get_by_role("heading", name="Chat with the served model")).to_be_visible()
    context.close()


def test_what_goes_wrong_stands_on_the_page_in_a_sentence_and_the_conversation_goes_on(
    address, browser: "Browser", double
):
    from playwright.sync_api import expect

    tab = browser.new_page(viewport={"width": 1200, "height": 800})
    tab.goto(address)
    entry = tab.get_by_placeholder("Ask something")
    entry.fill("long" * 100)
    entry.press("Enter")
    expect(tab.get_by_text("too long for the model")).to_be_visible(timeout=30_000)
    entry.fill("short")
    entry.press("Enter")
    expect(tab.get_by_text("aligned on short")).to_be_visible(timeout=30_000)
    tab.screenshot(path=SHOTS / "chat-error.png")
    tab.close()
    assert [message["content"] for message in double.asked[-1]["messages"]] == [
        "Reply in fewer than 20 words.",
        "short",
    ]
