"""The contract between `dvc.yaml`, the parameters, the code and git, whatever stages there are."""

import re
from pathlib import Path, PurePath
from typing import Any

import pytest
import yaml

from stance.config.profiles import PROFILES
from tests.builders.imports import imports

PIPELINE: dict[str, dict[str, Any]] = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
CODE = ("stance.", "tasks.")
ROAD = {"sft", "sample", "reward", "rl"}
"""Blocks that are null where their stage is not on the road of a run."""
OUTSIDE = {"data/checkpoints"}  # survives a stage that is cut short, which DVC's outputs do not

each_stage = pytest.mark.parametrize("stage", sorted(PIPELINE))


def paths(stage: str, *kinds: str) -> set[str]:
    """Return what a stage lists as `deps`, `outs`, `metrics` or `plots`."""
    entries = [entry for kind in kinds for entry in PIPELINE[stage].get(kind, [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def written(stage: str) -> set[str]:
    return paths(stage, "outs", "metrics", "plots")


def in_git(stage: str) -> set[str]:
    """Return what a stage writes and DVC leaves to git."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in PIPELINE[stage].get(kind, [])]
    return {
        path
        for entry in entries
        if isinstance(entry, dict)
        for path, options in entry.items()
        if options.get("cache") is False and not options.get("persist")
    }


def covers(folder: str, path: str) -> bool:
    return PurePath(path).is_relative_to(folder)


def upstream(stage: str) -> set[str]:
    """Return the stages that must run before a stage, directly or not."""
    direct = {
        other
        for other in PIPELINE
        for dep in paths(stage, "deps")
        for out in written(other)
        if covers(dep, out) or covers(out, dep)
    }
    return direct.union(*map(upstream, direct))


def program(stage: str) -> Path:
    """Return the module that a stage runs."""
    found = re.fullmatch(r"tasks/python -m tasks\.(\w+)((?: \S+)*)", PIPELINE[stage]["cmd"])
    assert found, f"{stage} does not run one module of tasks/"
    return Path(f"tasks/{found[1]}.py")


def project_files(path: Path) -> set[str]:
    """Return a module and every module of this project that it imports, directly or not."""
    seen: set[Path] = set()
    todo = {path}
    while todo:
        module = todo.pop()
        seen.add(module)
        named = {Path(*name.split(".")).with_suffix(".py") for name in imports(module) if name.startswith(CODE)}
        todo |= {file for file in named if file.is_file()} - seen
    return {str(file) for file in seen if not covers("stance/config", str(file))}  # of parameters DVC sees the values


def code_deps(stage: str) -> set[str]:
    return {path for path in paths(stage, "deps") if path.startswith(("stance/", "tasks/"))}


def overlap(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def lookup(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


@each_stage
def test_a_stage_runs_the_module_of_its_name(stage):
    expected = "answers" if stage in ("answers_base", "answers_aligned") else stage
    assert program(stage) == Path(f"tasks/{expected}.py")
    assert str(program(stage)) in paths(stage, "deps")


@each_stage
def test_every_project_module_that_a_stage_imports_is_covered_by_a_dependency(stage):
    deps = code_deps(stage)
    assert [file for file in project_files(program(stage)) if not any(covers(dep, file) for dep in deps)] == []


@each_stage
def test_every_dependency_on_code_is_used(stage):
    files = project_files(program(stage))
    assert [dep for dep in code_deps(stage) if not any(covers(dep, file) for file in files)] == []


@each_stage
def test_a_data_file_beside_the_code_of_a_stage_is_covered_by_a_dependency(stage):
    files = [Path(file) for file in project_files(program(stage))]
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    beside = {path for folder in {file.parent for file in files} for path in folder.iterdir() if path.suffix != ".py"}
    used = {str(path) for path in beside if path.is_file() and f'"{path.name}"' in code}
    assert [path for path in used if not any(covers(dep, path) for dep in code_deps(stage))] == []


@each_stage
def test_an_edit_to_a_neighbour_retrains_nothing(stage):
    """The stages that cost minutes name their modules one by one, where a folder holds others too."""
    folders = {dep for dep in code_deps(stage) if Path(dep).is_dir()}
    assert stage != "train" or not folders


@each_stage
@pytest.mark.parametrize("profile", sorted(PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_parameter_of_a_stage_is_in_every_profile(stage, profile):
    values = yaml.safe_load(profile.read_text(encoding="utf-8"))
    listed = PIPELINE[stage].get("params", [])
    assert all(lookup(values, key) is not None for key in listed if key not in ROAD)
    assert ROAD & set(listed) <= values.keys()


def test_every_parameter_is_listed_by_a_stage_besides_the_report():
    listed = {key for stage in PIPELINE if stage != "report" for key in PIPELINE[stage].get("params", [])}
    values = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    every = {f"{block}.{key}" for block, keys in values.items() if isinstance(keys, dict) for key in keys} | {"seed"}
    every |= ROAD
    listed.add("hub")  # a release is no stage
    assert [key for key in sorted(every) if not {key, key.split(".")[0]} & listed] == []


@each_stage
def test_the_parameters_that_a_stage_takes_are_those_it_lists(stage):
    source = program(stage).read_text(encoding="utf-8")
    main = source[source.index("\ndef main(") :]
    taken = set(re.findall(r"(?:\bparams|\bParams\.load\(\))\.([a-z_]\w*(?:\.[a-z_]\w*)*)", main))
    listed = set(PIPELINE[stage]["params"])
    assert [name for name in taken if not any(overlap(name, key) for key in listed)] == []
    assert not taken or [key for key in listed if not any(overlap(name, key) for name in taken)] == []


@each_stage
def test_every_path_on_a_command_line_is_a_dependency_or_an_output(stage):
    known = paths(stage, "deps") | written(stage)
    named = PIPELINE[stage]["cmd"].split()[3:]
    assert [arg for arg in named if arg not in OUTSIDE and not any(covers(arg, path) for path in known)] == []


@each_stage
def test_every_data_file_of_a_stage_is_on_its_command_line_or_found_by_its_parameters(stage):
    named = PIPELINE[stage]["cmd"].split()[3:]
    data = {path for path in paths(stage, "deps") | written(stage) if path.startswith("data/")}
    assert {path for path in data if not any(covers(arg, path) for arg in named)} <= {"data/sources"}


@each_stage
def test_every_data_dependency_is_written_by_a_stage_or_kept_in_git(stage):
    every_output = {path for other in PIPELINE for path in written(other)}
    data = {path for path in paths(stage, "deps") if path.startswith("data/")}
    made = {path for path in data if any(covers(out, path) or covers(path, out) for out in every_output)}
    assert all(covers("data/sources", path) for path in data - made)


@each_stage
def test_a_stage_imports_no_other_stage(stage):
    others = {str(program(other)) for other in PIPELINE} - {str(program(stage))}
    assert not project_files(program(stage)) & others


def test_the_training_hands_on_what_the_long_road_made():
    assert {"sft", "sample", "reward", "rl"} <= upstream("train")
    assert not {"train", "merge"} & upstream("rl")


def test_the_answers_of_the_base_do_not_wait_for_the_training():
    assert upstream("answers_base") == {"dataset", "base"}
    assert {"pairs", "train", "merge"} <= upstream("answers_aligned")


def test_the_classifier_waits_for_the_base_alone_and_depends_on_no_parameter_of_a_sweep():
    assert upstream("classifier") == {"dataset", "base"}
    assert PIPELINE["classifier"]["params"] == ["model.device"]


def test_the_base_cannot_see_the_test_prompts():
    assert not any(covers(path, "data/dataset/test_prompt.json") for path in paths("base", "deps"))
    assert upstream("base") == {"dataset"}


def test_the_base_reads_no_parameter_of_pairs_or_training():
    assert not {key.split(".")[0] for key in PIPELINE["base"]["params"]} & {"pairs", "train"}


def test_what_dvc_keeps_is_ignored_by_git_and_the_rest_is_not(tmp_path, git):
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_bytes(Path(".gitignore").read_bytes())
    kept = {path for stage in PIPELINE for path in in_git(stage)}
    every = {path for stage in PIPELINE for path in written(stage)} | OUTSIDE
    for path in every:  # git ignores a folder only where there is one
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
    ignored = set(git(tmp_path, "check-ignore", "--no-index", *every).splitlines())
    assert kept
    assert ignored == every - kept
