"""The web server of `make ui` sends reports, comparisons and curves, and no other file."""

from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from flows.pages import ADDRESS, Pages, url
from stance.machine.ports import HOST

FILES = (
    "data/made/index.html",
    "data/report/index.zh-TW.html",
    "data/compare/response-curve/index.html",
    ".runs/brave-owl/data/made/index.html",
    ".runs/brave-owl/data/made/loss.svg",
    ".serve/key",
    "params.yaml",
    "data/answers/aligned.jsonl",
)


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    with ThreadingHTTPServer((HOST, 0), Pages) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def get(port: int, path: str, host: str | None = None) -> tuple[int, str]:
    connection = HTTPConnection(HOST, port, timeout=10)
    connection.request("GET", path, headers={"Host": host or f"{HOST}:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.parametrize("name", FILES[:5])
def test_pages_and_curves_are_sent(port, name):
    assert get(port, f"/{name}") == (200, f"content of {name}")


@pytest.mark.parametrize(
    "path", [f"/{name}" for name in FILES[5:]] + ["/data/made/../../.serve/key", "/data/made/%2e%2e/%2e%2e/.serve/key"]
)
def test_no_other_file_is_sent(port, path):
    assert get(port, path)[0] == 404


def test_the_first_page_links_to_all_others(port):
    status, page = get(port, "/")
    assert status == 200
    assert page.count("<a href=") == 3
    for name in ("The run in this folder", "The run brave-owl", "The grid response-curve"):
        assert name in page


def test_a_name_of_another_site_is_refused(port):
    assert get(port, "/", host="evil.example")[0] == 403


def test_a_file_has_an_address_only_where_the_server_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / ".runs/brave-owl/data/made/index.html"
    assert url(page) is None
    ADDRESS.parent.mkdir()
    ADDRESS.write_text("http://127.0.0.1:4201")
    assert url(page) == "http://127.0.0.1:4201/.runs/brave-owl/data/made/index.html"
    assert url(tmp_path / "params.yaml") is None
