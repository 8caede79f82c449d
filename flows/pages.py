"""The web server of `make ui` for reports, comparisons and curves, on this machine only.

A browser opens no file by a link of a web page, so Prefect's UI links to this server. Paths are those of the project:
`/data/made/index.html`, `/.runs/NAME/data/made/index.html`, `/data/compare/GRID/index.html`. No other file is sent.
"""

import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stance.machine.ports import HOST, parse_port
from stance.pages.made import MADE, REPORT

ADDRESS = Path(".runs/pages.url")
"""The address of this server, while `make ui` is up."""
SENT = re.compile(
    r"(?:\.runs/\w[\w-]*/)?data/(?:made|report)/(?:[\w-]+\.svg|index(?:\.zh-TW)?\.html)"
    r"|data/compare/\w[\w-]*/index(?:\.zh-TW)?\.html"
)
"""The files that are sent."""
LISTED = ("data/compare/*/index.html", ".runs/*/data/made/index.html")
TYPES = {".html": "text/html; charset=utf-8", ".svg": "image/svg+xml"}


def url(path: Path) -> str | None:
    """Return the address of a file of the project at the server of `make ui`; None if there is no server."""
    inside = os.path.relpath(path)
    if not (ADDRESS.is_file() and SENT.fullmatch(inside)):
        return None
    return f"{ADDRESS.read_text(encoding='utf-8').strip()}/{inside}"


class Pages(BaseHTTPRequestHandler):
    """Answers a request with a page, a curve or the list of all pages."""

    def do_GET(self) -> None:
        """Send one file, or the list."""
        path = unquote(urlsplit(self.path).path).removeprefix("/")
        if (self.headers.get("Host") or "").partition(":")[0] not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN)
        elif not path:
            self._send(index(Path()).encode(), TYPES[".html"])
        elif SENT.fullmatch(path) and Path(path).is_file():
            self._send(Path(path).read_bytes(), TYPES[Path(path).suffix])
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        self.wfile.write(content)


def index(folder: Path) -> str:
    """Return a page with links to every report and every comparison in a project, the newest first."""
    own = next((path / "index.html" for path in (MADE, REPORT) if (folder / path / "index.html").is_file()), None)
    others = sorted((path for glob in LISTED for path in folder.glob(glob)), key=_time, reverse=True)
    paths = ([own] if own else []) + [path.relative_to(folder) for path in others]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Reports and comparisons</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<style>body { font: 1rem/1.7 system-ui; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }</style>\n"
        f"<h1>Reports and comparisons</h1>\n{_links(paths)}\n</html>\n"
    )


def _links(paths: Sequence[Path]) -> str:
    if not paths:
        return "<p>There is no report yet: press <em>Deployments</em> in the UI and run <em>align</em>.</p>"
    rows = (f'<li><a href="/{escape(str(path))}">{escape(_name(path))}</a></li>' for path in paths)
    return "<ul>\n" + "\n".join(rows) + "\n</ul>"


def _name(path: Path) -> str:
    if path.parts[0] == ".runs":
        return f"The run {path.parts[1]}"
    return f"The grid {path.parts[2]}" if path.parts[1] == "compare" else "The run in this folder"


def _time(path: Path) -> float:
    return path.stat().st_mtime


def main() -> None:
    """Serve the pages of the project in this folder until the process ends."""
    parser = ArgumentParser(
        prog="python -m flows.pages",
        description="Serve reports, comparisons and curves to browsers on this machine. `make ui` starts this command.",
    )
    parser.add_argument("port", type=parse_port, help="the port")
    with ThreadingHTTPServer((HOST, parser.parse_args().port), Pages) as server:
        print(f"up: http://{HOST}:{server.server_port}", file=sys.stderr, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
