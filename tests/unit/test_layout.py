"""The floors of the house: who may import whom."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.imports import imports

FLOORS = (
    {"stance", "stance.errors", "stance.language"},
    {"stance.machine"},
    {"stance.config"},
    {"stance.data"},
    {"stance.models"},
    {"stance.training", "stance.inference", "stance.client"},
    {"stance.evaluation"},
    {"stance.runs", "stance.preflight"},
    {"stance.pages", "stance.serving"},
    {"stance.release", "stance.course", "stance.chat", "stance.ranking", "tasks"},
    {"flows", "stance.__main__", "benchmarks"},
)
"""The ground floor first. A package imports only from floors below its own."""
FLOOR = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
ONLY_IN = {
    "prefect": ("flows",),
    "dvc": ("stance.runs",),
    "vllm": ("stance.inference", "stance.serving"),
    "streamlit": ("stance.chat.page", "stance.ranking.page"),
}
"""Where a library may be imported, even within a function."""
STAGES = {
    "dataset", "base", "classifier", "pairs", "sft", "sample", "reward", "rl", "train", "merge", "answers", "judge",
    "evaluate", "report",
}  # fmt: skip
MODULES = sorted(path for folder in ("stance", "tasks", "flows") for path in Path(folder).rglob("*.py"))

each_module = pytest.mark.parametrize("path", MODULES, ids=str)


def package(name: str) -> str:
    """Return the package of a module: two words of `stance`, one of all others."""
    words = name.split(".")
    return ".".join(words[:2]) if words[0] == "stance" else words[0]


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


@each_module
def test_a_package_imports_only_from_floors_below_its_own(path):
    mine = package(module(path))
    others = {package(name) for name in imports(path) if name.split(".")[0] in ("stance", "tasks", "flows")} - {mine}
    if mine == "stance":  # the docstring of the whole
        assert not others
    else:
        assert [other for other in others if FLOOR[other] >= FLOOR[mine]] == []


@each_module
def test_tasks_and_flows_are_imported_by_nobody_else(path):
    roots = {name.split(".")[0] for name in imports(path)} & {"tasks", "flows"}
    assert roots <= {module(path).split(".")[0]}


@each_module
def test_a_library_is_imported_only_where_it_belongs(path):
    roots = {name.split(".")[0] for name in imports(path)}
    here = module(path)
    assert [root for root in roots & ONLY_IN.keys() if not here.startswith(ONLY_IN[root])] == []


def test_there_are_fourteen_stages_and_nothing_else():
    """`tasks/stance.py` is the earlier name of a command, and holds nothing."""
    names = {path.stem for path in Path("tasks").glob("*.py")}
    assert names == STAGES | {"__init__", "stance"}
    assert len(Path("tasks/stance.py").read_text(encoding="utf-8").splitlines()) < 10


@each_module
def test_no_stage_imports_another(path):
    stages = {name.split(".")[1] for name in imports(path) if name.startswith("tasks.")}
    assert stages == set()


def test_packages_import_one_another_in_no_circle():
    arrows = {package(module(path)): set() for path in MODULES}
    for path in MODULES:
        arrows[package(module(path))] |= {package(name) for name in imports(path)} & arrows.keys()
    assert [
        name for name, to in arrows.items() if any(FLOOR.get(other, -1) >= FLOOR.get(name, 99) for other in to - {name})
    ] == []


@pytest.mark.parametrize("name", ["config", "data", "machine", "language"])
def test_a_package_that_every_process_imports_is_without_torch(name):
    modules = [module(path) for path in Path("stance", name).glob("*.py") if path.stem != "__init__"]
    code = f"import sys; import {', '.join(modules)}; print(*{{'torch', 'transformers', 'vllm'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
