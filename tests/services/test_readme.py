"""Every command that README and docs print works as printed, in a shell where no environment is active.

Blocks with a comment like `<!-- serves -->` are not typed here, because they take minutes, go on until Ctrl+C, or need
a machine that the tests do not have. `tests/unit/test_docs.py` checks what these blocks name.
"""

import json
import shutil
from pathlib import Path

import pytest

from stance.data.answers import RESPONSES
from stance.data.metrics import CLASSIFIER
from stance.machine.files import write_json, write_jsonl
from tests.builders.finished_run import response
from tests.builders.fresh_shell import make_environment, type_in
from tests.builders.manual import PAGES, blocks
from tests.builders.taught import write_classifier
from tests.builders.this_project import copy_of_this_project

PAGE_OF = {
    line.partition(" #")[0].strip(): str(page)
    for page in reversed(PAGES)
    for block in blocks(page)
    if block.mark is None
    for line in block.lines
}
"""The commands of all blocks without a mark, each with the first page that prints it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with an environment, and the files of a finished run that the commands read."""
    project = copy_of_this_project(tmp_path_factory.mktemp("readme") / "project")
    make_environment(project)
    shutil.copytree(project / "data/sources/live_action", project / "data/dataset")
    write_classifier(project / "data/dataset", project / CLASSIFIER)
    answers = [{"id": n, "prompt": "真人化好看嗎？", "response": "真人版讓角色更貼近觀眾。"} for n in (1, 2)]
    write_jsonl(project / "data/answers/aligned.jsonl", answers)
    write_json(project / RESPONSES, [response(1, "好看。"), response(2, "值得一看。")])
    return project


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with an environment, where no stage ran yet."""
    project = copy_of_this_project(tmp_path_factory.mktemp("fresh") / "project")
    make_environment(project)
    return project


@pytest.mark.parametrize("line", sorted(PAGE_OF))
def test_a_command_works_as_it_is_printed(finished, line):
    typed = type_in(finished, line)
    assert typed.returncode == 0, f"{PAGE_OF[line]}: {line}\n{typed.stdout}"
    assert "Traceback" not in typed.stdout


def test_there_are_commands_to_type():
    assert {"README.md", "docs/judge.md", "docs/ui.md"} <= {*PAGE_OF.values()}


def test_dvc_runs_a_stage_by_the_projects_own_python(fresh):
    ran = type_in(fresh, ".venv/bin/dvc repro dataset")
    assert ran.returncode == 0, ran.stdout
    assert "> tasks/python -m tasks.dataset data/dataset" in ran.stdout
    assert json.loads((fresh / "data/dataset/labelled_data.json").read_text(encoding="utf-8"))


def test_make_takes_the_environment_as_it_is(fresh):
    """An environment that looked wrong would be made again, which takes minutes and empties it."""
    mark = fresh / ".venv/mark"
    mark.touch()
    asked = type_in(fresh, "make environment tools")
    assert (asked.returncode, asked.stdout) == (0, "")
    assert mark.exists()


def test_a_stage_without_the_environment_says_in_one_sentence_what_to_do(fresh):
    refused = type_in(fresh, "STANCE_PYTHON=/usr/bin/python3 .venv/bin/dvc repro --force dataset")
    sentences = [line for line in refused.stdout.splitlines() if line.startswith("error: ")]
    assert refused.returncode != 0
    assert len(sentences) == 1
    assert "/usr/bin/python3" in sentences[0]
    assert "run `make environment`, then use .venv/bin/python" in sentences[0]
    assert "Traceback" not in refused.stdout
