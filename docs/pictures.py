"""Make the pictures of README and docs again: `.venv/bin/python -m docs.pictures`.

The pictures are the report of a run, and the page of this run in Prefect's UI. The script copies this project to a
temporary folder, starts `make ui` there on a free port, starts one run, waits for it, takes both pictures with the
system's Chromium, and ends everything. The run uses this project's DVC cache. So it takes about a minute after
`make repro`, and some minutes with an empty cache.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from PIL import Image

from tests.builders.prefect_ui import FINAL, Ui
from tests.builders.this_project import copy_of_this_project

if TYPE_CHECKING:
    from playwright.sync_api import Page

PICTURES = Path("docs/pictures")
WIDTH = 1000
"""Width of a picture, in pixels."""
COLOURS = 64
MINUTES = 15
"""How long the run may take."""
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def pictures() -> None:
    """Make both pictures."""
    with TemporaryDirectory() as scratch:
        project = copy_of_this_project(Path(scratch) / "stance-pipeline", profile="smollm2-135m")
        share_cache(project)
        ui = Ui(project)
        try:
            run = ui.launch()
            if (state := ui.wait(run, FINAL, within=60 * MINUTES)) != "COMPLETED":
                raise SystemExit(f"error: the run is {state}; `make repro` says why")
            take(ui, run["id"], ui.folder(run) / "data/report/index.html")
        finally:
            ui.stop()


def share_cache(project: Path) -> None:
    """Let a copy of this project use the DVC cache of this project."""
    cache = Path(".dvc/cache").resolve()
    (project / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n", encoding="utf-8")


def take(ui: Ui, run_id: str, report: Path) -> None:
    """Take a picture of the report, and of the run in Prefect's UI."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        page.goto(report.as_uri())
        save(page, "report.png")
        page = browser.new_page(viewport={"width": 1300, "height": 1300})
        page.goto(f"http://127.0.0.1:{ui.port}/runs/flow-run/{run_id}")
        page.get_by_text("Task Runs", exact=True).click(timeout=60_000)
        page.get_by_text("evaluate", exact=True).first.wait_for(timeout=60_000)
        page.wait_for_timeout(6000)  # the time line is a moving picture, whose end no text announces
        save(page, "ui.png")
        browser.close()


def save(page: "Page", name: str) -> None:
    """Save what a page shows, with few colours, so that the file is small."""
    path = PICTURES / name
    page.screenshot(path=path)
    with Image.open(path) as screen:
        height = round(screen.height * WIDTH / screen.width)
        small = screen.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    pictures()
