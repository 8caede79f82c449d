"""The artifacts of a run: links and curves over HTTP under `make ui`, and files without it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows import artifacts
from flows.pages import ADDRESS
from stance.machine.git import git
from stance.runs.record import Run
from tests.builders.figures import figures

COLUMNS = ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the UI gets, by key, after `show`; the folder holds a made-up run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    shown: dict[str, Any] = {}
    for kind in ("markdown", "table", "image", "link"):
        monkeypatch.setattr(
            artifacts, f"create_{kind}_artifact", lambda content, *, key, **_more: shown.__setitem__(key, content)
        )
    return shown


def run() -> tuple[Run, Path]:
    """Write a made-up run, and return its record and its folder."""
    folder = Path(".runs/brave-owl").resolve()
    for name in ("data/evaluation", "data/train", "data/report"):
        (folder / name).mkdir(parents=True)
    git(folder, "init", "-q")
    verdicts = {"base": {"stance": "neutral", "score": 0.0, "defects": []}}
    verdicts["aligned"] = {"stance": "support", "score": 0.9, "defects": []}
    response = {"id": 1, "prompt": "?", "response_from_original_model": "A", "response_from_trained_model": "B"}
    texts = {
        "evaluation/metrics.json": json.dumps(figures()),
        "evaluation/gates.json": "[]",
        "evaluation/stances.json": json.dumps([{"id": 1, **verdicts}]),
        "evaluation/responses.json": json.dumps([response]),
        "train/log.csv": "\n".join([",".join(("step", *COLUMNS)), *(f"{n},1,1,1,1,1" for n in (1, 2))]),
        "report/index.html": "<h1>report</h1>",
    }
    for name, text in texts.items():
        (folder / "data" / name).write_text(text)
    created = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    record = Run(name="brave-owl", commit="c" * 40, snapshot="c" * 40, created=created, seconds={"train": 61.0})
    record.write(folder)
    return record, folder


def test_report_and_curves_have_addresses_under_make_ui(shown):
    record, folder = run()
    ADDRESS.write_text("http://127.0.0.1:4201")
    artifacts.show(record, folder)
    assert shown["report"] == "http://127.0.0.1:4201/.runs/brave-owl/data/made/index.html"
    assert shown["loss"] == "http://127.0.0.1:4201/.runs/brave-owl/data/made/loss.svg"
    assert "<svg" in (folder / "data/made/loss.svg").read_text("utf-8")


def test_without_make_ui_they_are_a_file_and_an_image(shown):
    record, folder = run()
    artifacts.show(record, folder)
    assert shown["report"] == (folder / "data/made/index.html").as_uri()
    assert shown["loss"].startswith("data:image/svg+xml;base64,")


def test_the_answers_have_the_judges_stances_and_the_summary_says_how_the_run_was_made(shown):
    record, folder = run()
    artifacts.show(record, folder)
    assert shown["answers"] == [{"prompt": "?", "before": "A [neutral]", "after": "B [support]"}]
    assert "| commit | cccccccccccc |" in shown["summary"]
    assert "| seconds | 61, of the stages that ran |" in shown["summary"]
    for key in ("date", "machine", "versions"):
        assert f"| {key} | " in shown["summary"]
