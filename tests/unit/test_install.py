"""`requirements/install.sh` empties nothing that it has not made."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PYTHON = """#!/bin/sh
# A Python that makes environments in no time, and installs nothing.
case "$*" in
    "-m venv "*)
        for last; do :; done
        mkdir -p "$last/bin" && cp "$0" "$last/bin/python" && echo "# $last/" >"$last/bin/pip"
        ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A folder with the script, a list of no packages, and a Python that only pretends."""
    folder = tmp_path / "a project"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy("requirements/install.sh", folder / "requirements")
    (folder / "requirements/cpu.txt").write_text("nothing==1\n")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return folder


def install(project: Path) -> "subprocess.CompletedProcess[str]":
    command = ["requirements/install.sh", "requirements/cpu.txt"]
    variables = os.environ | {"PYTHON": str(project.parent / "python")}
    return subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True)


def test_a_new_environment_is_made_once(project):
    first, second = install(project), install(project)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "Making .venv" in first.stdout
    assert (second.stdout, second.stderr) == ("", "")


def test_what_a_link_leads_to_is_not_emptied(project):
    elsewhere = project.parent / "environments"
    elsewhere.mkdir()
    (elsewhere / "notes.txt").write_text("precious")
    (project / ".venv").symlink_to(elsewhere)
    done = install(project)
    assert done.returncode == 1
    assert done.stderr == (
        f"{elsewhere} was not made here, or not to its end, and nothing of yours is removed: remove it or move it "
        "away, then run this again.\n"
    )
    assert [path.name for path in elsewhere.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("exists", [True, False])
def test_behind_a_link_to_an_empty_folder_the_environment_is_made(project, exists):
    elsewhere = project.parent / "large disk/environment"
    if exists:
        elsewhere.mkdir(parents=True)
    (project / ".venv").symlink_to(elsewhere)
    assert install(project).returncode == 0
    assert (project / ".venv").is_symlink()
    assert (elsewhere / "installed/cpu.txt").exists()
    assert install(project).stdout == ""


def test_an_environment_of_the_user_is_not_emptied(project):
    """One that uv has made has no pip."""
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/pyvenv.cfg").write_text("uv = 0.13.9")
    done = install(project)
    assert (done.returncode, "nothing of yours is removed" in done.stderr) == (1, True)
    assert (project / ".venv/pyvenv.cfg").read_text() == "uv = 0.13.9"


def test_a_file_in_its_place_is_not_replaced(project):
    (project / ".venv").write_text("mine")
    assert "is no folder: remove it" in install(project).stderr
    assert (project / ".venv").read_text() == "mine"


def test_an_environment_of_ours_that_was_moved_or_is_half_made_is_made_anew(project):
    install(project)
    moved = project.rename(project.with_name("moved"))
    (moved / ".venv/lib").mkdir()
    done = install(moved)
    assert (done.returncode, "Making .venv" in done.stdout) == (0, True)
    assert not (moved / ".venv/lib").exists()
    (moved / ".venv/bin/pip").unlink()
    (moved / ".venv/installed/cpu.txt").unlink()
    assert install(moved).returncode == 0


def test_the_installation_says_how_far_it_is(project):
    """pip prints a line for each package, then nothing for minutes; the script prints a line every ten seconds."""
    program = project.parent / "python"
    pip = """case "$*" in
    *" install "*"-r "*) echo "Collecting one==1"; echo "Collecting two==2"; sleep 11; echo "Collecting three==3" ;;
esac
"""
    program.write_text(program.read_text() + pip)
    done = install(project)
    assert done.returncode == 0, done.stderr
    [told] = [line for line in done.stdout.splitlines() if " packages " in line]
    assert re.fullmatch(r"  1\d s: 2 of 1 packages fetched", told)


def test_the_message_of_pip_and_its_failure_are_kept(project):
    program = project.parent / "python"
    pip = 'case "$*" in *" install "*"-r "*) echo "ERROR: no such package" >&2; exit 1 ;; esac\n'
    program.write_text(program.read_text() + pip)
    done = install(project)
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: no such package\npip could not install requirements/cpu.txt: ")
    assert not (project / ".venv/installed/cpu.txt").exists()
