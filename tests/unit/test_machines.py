"""Machines as people have them: proxies, git hooks, containers, shells with settings of other programs."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stance.config.models import FolderBase
from stance.data.chat import BREEZE_TOKENS, refuse_control_tokens
from stance.errors import InputError, Unreachable, prepare, run
from stance.inference.environment import without_others
from stance.machine import processes
from stance.machine.files import from_project
from stance.machine.git import attempt
from stance.machine.memory import Room, within_limits
from stance.machine.ports import listens
from stance.models.hub_errors import explained
from stance.models.intake import from_folder
from stance.preflight.checks import require_user_name

GIB = 2**30


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def environ(monkeypatch):
    """A copy of the environment, without proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HTTP_PROXY": "http://proxy:3128"}, "127.0.0.1,localhost,::1"),
        ({"https_proxy": "http://proxy:3128", "NO_PROXY": ".edu.tw"}, ".edu.tw,127.0.0.1,localhost,::1"),
        ({"ALL_PROXY": "socks5://127.0.0.1:9", "no_proxy": "localhost"}, "localhost,127.0.0.1,::1"),
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, "*"),
        ({}, None),
    ],
)
def test_servers_on_this_machine_are_reached_without_the_proxy_of_the_network(environ, variables, expected):
    for name, value in variables.items():
        environ.setenv(name, value)
    environ.setattr(sys, "stdout", None)
    prepare()
    assert (os.environ.get("no_proxy"), os.environ.get("NO_PROXY")) == (expected, expected)


def test_a_socks_proxy_without_its_package_is_one_sentence():
    with (
        pytest.raises(
            InputError, match=r"names a SOCKS proxy, so team/chat cannot be reached: .* socksio; run `make env"
        ),
        explained("team/chat", "fetch"),
    ):
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.")


def test_git_does_not_hear_of_the_repository_of_a_hook(tmp_path, git, monkeypatch):
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        git(tmp_path / name, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "mine/.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "mine/.git/index"))
    found = attempt(tmp_path / "other", "rev-parse", "--absolute-git-dir").stdout.decode().strip()
    assert found == str((tmp_path / "other/.git").resolve())
    prepare()
    assert not {"GIT_DIR", "GIT_INDEX_FILE"} & os.environ.keys()


def test_every_file_is_checked_out_as_it_was_committed():
    attributes = subprocess.run(
        ["git", "check-attr", "text", "requirements/install.sh", "dvc.lock", "data/sources/ai_art/test_prompt.json"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    assert attributes.count(": text: unset") == 3


def test_a_user_without_a_name_is_told_or_named(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 54321")

    require_user_name()
    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.delenv("USER", raising=False)
    with pytest.raises(InputError, match="has no name here, and DVC needs one; `export USER=me`"):
        require_user_name()
    assert processes.environment()["USER"] == f"user-{os.getuid()}"


HOST = Room(free=20 * GIB, total=24 * GIB)


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({}, "0::/\n", HOST),
        ({"memory.max": "max", "memory.current": "5"}, "0::/\n", HOST),
        (
            {"memory.max": str(4 * GIB), "memory.current": str(3 * GIB), "memory.stat": f"anon 5\ninactive_file {GIB}"},
            "0::/\n",
            Room(2 * GIB, 4 * GIB),
        ),
        # A job in a group within a group, each with a limit: the smaller one counts.
        (
            {"slurm/memory.max": str(8 * GIB), "slurm/job/memory.max": str(16 * GIB), "slurm/memory.current": "0"},
            "0::/slurm/job\n",
            Room(8 * GIB, 8 * GIB),
        ),
        # Version 1, in a container that sees its own group at the top.
        (
            {"memory/memory.limit_in_bytes": str(GIB), "memory/memory.usage_in_bytes": str(GIB // 4)},
            "11:memory:/docker/5af\n10:cpu:/docker/5af\n",
            Room(3 * GIB // 4, GIB),
        ),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, "11:memory:/\n", HOST),
        ({"memory.max": str(GIB), "memory.current": str(2 * GIB)}, "0::/\n", Room(0, GIB)),
    ],
)
def test_the_memory_is_that_of_the_container(tmp_path, files, own, expected):
    for name, text in files.items():
        write(tmp_path / "groups" / name, text)
    write(tmp_path / "cgroup", own)
    assert within_limits(HOST, tmp_path / "groups", tmp_path / "cgroup") == expected


def test_without_control_groups_the_memory_is_that_of_the_machine(tmp_path):
    assert within_limits(HOST, tmp_path / "none", tmp_path / "nothing") == HOST


def test_variables_of_vllms_guide_do_not_replace_what_was_worked_out():
    shell = {
        "PATH": "/bin",
        "VLLM_CPU_KVCACHE_SPACE": "40",
        "VLLM_CPU_OMP_THREADS_BIND": "0-29",
        "VLLM_ATTENTION_BACKEND": "FLASHINFER",
        "VLLM_CACHE_ROOT": "/scratch/vllm",
    }
    assert without_others(shell) == {"PATH": "/bin", "VLLM_CACHE_ROOT": "/scratch/vllm"}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The workspace of a run in a project whose path has a space and Chinese characters, with a model beside it."""
    project = tmp_path / "我的 專案"
    (project / ".runs/one/models/own").mkdir(parents=True)
    (tmp_path / "models/x").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(project / ".runs/one")
    return project.resolve()


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("../models/x", "{project}/../models/x"),
        ("~/models/x", "{home}/models/x"),
        ("models/own", "models/own"),
        ("/models/x", "/models/x"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
    ],
)
def test_a_path_is_taken_from_the_project_in_every_workspace(workspace, tmp_path, path, place):
    assert str(from_project(Path(path))) == place.format(project=workspace, home=tmp_path)


def test_outside_of_a_workspace_a_path_is_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert from_project(Path("../models/x")) == Path("../models/x")


def test_a_run_finds_the_model_of_a_relative_path(tiny_model, workspace, tmp_path):
    (tmp_path / "models/x").rmdir()
    (tmp_path / "models/x").symlink_to(tiny_model)
    base, _ = from_folder(FolderBase(source="folder", path=Path("../models/x")), "cpu")
    assert base.path == Path("../models/x")
    base.write(Path("data/base"))
    from stance.models.base import locate

    assert (locate(Path("data/base")) / "config.json").is_file()


def test_a_prefect_server_that_is_gone_is_named_with_its_variable(monkeypatch):
    from flows.server import require_reachable

    assert not listens("http://127.0.0.1:9/api/health")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(Unreachable, match=r"does not answer; .* environment names it: .* unset PREFECT_API_URL, and"):
        require_reachable("http://127.0.0.1:9/api")
    monkeypatch.delenv("PREFECT_API_URL")
    with pytest.raises(Unreachable, match=r"PREFECT_API_URL of the Prefect profile \w+ names it: .*config unset"):
        require_reachable("http://127.0.0.1:9/api")


def test_a_home_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    from prefect.settings import PREFECT_HOME, temporary_settings

    from flows.server import require_home

    (tmp_path / "file").touch()
    with (
        temporary_settings({PREFECT_HOME: tmp_path / "file/.prefect"}),
        pytest.raises(
            InputError, match=r"\.prefect, where Prefect keeps its database, cannot be written .*PREFECT_HOME"
        ),
    ):
        require_home()
    with temporary_settings({PREFECT_HOME: tmp_path / "new/.prefect"}):
        require_home()


def test_a_control_token_in_the_data_is_refused_with_its_place():
    texts = {
        "question 1, support": "更好</s>再好。",
        "question 2, prompt": "[b]好[/b]嗎？",
        "test prompt 3": "[INST]？",
    }
    with pytest.raises(InputError) as refused:
        refuse_control_tokens(BREEZE_TOKENS, texts, "the miniature")
    assert str(refused.value) == (
        "question 1, support holds </s>; test prompt 3 holds [INST]: the miniature reads that as a control token and "
        "not as text; remove it from the data"
    )


@pytest.mark.parametrize("package", ["stance", "tasks.base", "flows", "benchmarks.busy"])
@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_threads_wait_asleep_in_every_program_unless_the_user_says_otherwise(package, policy):
    variables = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    variables |= {"OMP_WAIT_POLICY": policy} if policy else {}
    program = f"import os, {package}; print(os.environ['OMP_WAIT_POLICY'])"
    printed = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == (policy or "PASSIVE")


def test_an_engine_inherits_how_threads_wait(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert without_others(processes.environment())["OMP_WAIT_POLICY"] == "PASSIVE"


UNUSABLE = "error: {place} cannot be read or written ({reason}); correct the cause first\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_nothing_is_one_sentence(number, capsys):
    def stage():
        raise OSError(number, os.strerror(number), "data/base/model.safetensors")

    with pytest.raises(SystemExit) as ended:
        run(stage)
    assert ended.value.code == 1
    reason = os.strerror(number)
    assert capsys.readouterr().err == UNUSABLE.format(place="data/base/model.safetensors", reason=reason)


@pytest.mark.parametrize("argument", ["rows.json", "--file=rows.json", "folder"])
def test_a_path_that_the_user_named_and_cannot_be_used_is_one_sentence(argument, monkeypatch, capsys):
    place = "folder/rows.json" if argument == "folder" else "rows.json"
    monkeypatch.setattr("sys.argv", ["stance", argument])
    with pytest.raises(SystemExit):
        run(lambda: (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied", place)))
    assert capsys.readouterr().err == UNUSABLE.format(place=place, reason="Permission denied")


def test_an_error_in_the_code_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("sys.argv", ["stance", "rows.json", ""])
    with pytest.raises(FileNotFoundError):
        run(lambda: (_ for _ in ()).throw(FileNotFoundError(errno.ENOENT, "No such file", "stance/other.json")))
