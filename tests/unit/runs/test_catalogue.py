"""The command `runs`: whole names in a narrow terminal, and what `apply` and `remove` say."""

import io
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from stance.runs import catalogue

NAMES = ["response-curve-ac39515f", "a-very-long-name-that-somebody-has-chosen-00000001"]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs as far as the list looks at them."""
    monkeypatch.chdir(tmp_path)
    made = datetime(2026, 1, 2, tzinfo=UTC)
    records = [
        (
            tmp_path,
            SimpleNamespace(name=name, state="failed", created=made, profile=None, overrides={"seed": 1}),
        )
        for name in NAMES
    ]
    monkeypatch.setattr(catalogue.workspace, "all_runs", lambda: records)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_name_of_a_run_is_never_cut(runs, columns):
    screen = io.StringIO()
    Console(file=screen, width=columns, markup=False, emoji=False).print(catalogue.listing())
    assert all(name in screen.getvalue() for name in NAMES)


def typed(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["python -m stance runs", *arguments])
    catalogue.main()
    return capsys.readouterr().out


def test_a_table_in_a_pipe_is_as_wide_as_its_content(runs, monkeypatch, capsys):
    overrides = {f"a.long.parameter.number.{number}": number for number in range(8)}
    for _, run in catalogue.workspace.all_runs():
        run.overrides = overrides
    shown = typed(monkeypatch, capsys)
    assert all(f"{name}={value}" in shown for name, value in overrides.items())
    assert "…" not in shown


def test_apply_names_the_files_that_it_copied_and_the_way_back(monkeypatch, capsys):
    monkeypatch.setattr(catalogue, "apply", lambda name: [Path("params.yaml"), Path("dvc.lock")])
    shown = typed(monkeypatch, capsys, "apply", "mine")
    assert shown.startswith("copied from mine: params.yaml, dvc.lock\n")
    assert "`make repro`" in shown
    assert "`git checkout .`" in shown


def test_remove_names_what_it_removed(monkeypatch, capsys):
    removed = []
    monkeypatch.setattr(catalogue, "remove", removed.extend)
    assert typed(monkeypatch, capsys, "remove", "one", "two").startswith("removed: one, two; ")
    assert removed == ["one", "two"]


def test_a_run_that_is_not_there_is_named_with_those_that_are(runs):
    with pytest.raises(catalogue.InputError, match=f"there is no run nope; expected one of: {', '.join(NAMES)}"):
        catalogue.show("nope")


def test_the_short_table_of_dvc_in_the_readme_fits_120_columns():
    [line] = [line for line in Path("README.md").read_text(encoding="utf-8").splitlines() if "dvc exp show" in line]
    command = [sys.executable, "-m", "dvc", *shlex.split(line.partition("  #")[0])[1:], "--no-pager"]
    variables = os.environ | {"COLUMNS": "300"}
    shown = subprocess.run(command, env=variables, capture_output=True, encoding="utf-8", timeout=60)
    assert (shown.returncode, "pairs.support_ratio" in shown.stdout) == (0, True), shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 120


def test_the_folder_of_dvc_plots_is_no_edit_of_the_tree():
    assert "/dvc_plots/" in Path(".gitignore").read_text(encoding="utf-8").splitlines()
