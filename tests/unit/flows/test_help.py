"""`--help` of a flow and of a stage prints its help and starts nothing."""

import logging
import subprocess
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.settings import Settings
from stance.errors import InputError, run


@pytest.mark.parametrize("name", ["align", "deployments", "pages", "release", "server", "sweep", "worker"])
def test_help_is_printed_and_nothing_is_started(name, monkeypatch, tmp_path, capsys):
    module = import_module(f"flows.{name}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [f"flows/{name}.py", "--help"])
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"usage: python -m flows.{name} ")
    assert shown.out.count(".") >= 2  # the name of the module, and the end of a sentence
    assert shown.err == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["align", "deployments", "server", "worker"])
def test_an_argument_that_a_flow_does_not_have_is_refused(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [f"flows/{name}.py", "mine"])
    with pytest.raises(SystemExit) as ended:
        import_module(f"flows.{name}").main()
    assert ended.value.code == 2
    assert "unrecognized arguments: mine" in capsys.readouterr().err


@pytest.mark.parametrize("ratio", ["1.5", "-0.1"])
def test_a_ratio_out_of_range_is_told_before_a_server_starts(ratio, monkeypatch, capsys):
    module = import_module("flows.align")
    monkeypatch.setattr("sys.argv", ["flows/align.py", "--ratio", ratio])
    monkeypatch.setattr(module, "some_server", lambda: pytest.fail("started"))
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 1
    assert "support_ratio" in capsys.readouterr().err


def test_a_ratio_makes_a_run_in_a_workspace_with_the_edits_of_this_folder(monkeypatch, capsys):
    module = import_module("flows.align")
    calls = []
    monkeypatch.setattr("sys.argv", ["flows/align.py", "--ratio", "0"])
    monkeypatch.setattr(module, "some_server", nullcontext)
    monkeypatch.setattr(module, "align_here", lambda: pytest.fail("this folder is to stay as it is"))
    monkeypatch.setattr(module, "align", lambda settings, **more: calls.append((settings, more)) or {"base": "ran: x"})
    module.main()
    [(settings, more)] = calls
    assert settings.parameters().changes == {"pairs.support_ratio": 0}
    assert more == {"uncommitted": True}
    assert capsys.readouterr().out == "       ran  base\n"


def test_a_release_without_a_name_is_that_of_this_folder_with_its_edits(monkeypatch, capsys):
    module = import_module("flows.release")
    calls = []
    monkeypatch.setattr("sys.argv", ["flows/release.py"])
    monkeypatch.setattr(module, "some_server", nullcontext)
    answer = {"release": "r-1", "address": "http://127.0.0.1:8000/v1"}
    monkeypatch.setattr(module, "release", lambda **options: calls.append(options) or answer)
    module.main()
    assert calls == [{"run": None, "uncommitted": True}]
    assert capsys.readouterr().out.startswith("released r-1: http://127.0.0.1:8000/v1\n")


@pytest.mark.parametrize(("uncommitted", "warned"), [(False, True), (True, False)])
def test_a_run_without_the_edits_of_the_parameters_warns(monkeypatch, caplog, tmp_path, uncommitted, warned):
    module = import_module("flows.align")
    monkeypatch.setattr(module, "flow_run", SimpleNamespace(name="one", id="1"))
    monkeypatch.setattr(module, "get_run_logger", logging.getLogger)
    monkeypatch.setattr(module.workspace, "edited", lambda *paths: [*paths])
    monkeypatch.setattr(module.workspace, "of_flow_run", lambda name, ident: tmp_path)
    assert module.own_workspace(Settings(), uncommitted) == tmp_path
    assert (module.LEFT_OUT in caplog.text) == warned


@pytest.mark.parametrize(("flow", "arguments"), [("release", []), ("align", ["--ratio", "0"])])
def test_ctrl_c_ends_a_flow_without_a_traceback(monkeypatch, capsys, flow, arguments):
    module = import_module(f"flows.{flow}")
    monkeypatch.setattr("sys.argv", [f"flows/{flow}.py", *arguments])
    monkeypatch.setattr(module, "some_server", nullcontext)
    monkeypatch.setattr(module, flow, interrupted)
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


def interrupted(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_a_run_that_is_not_there_is_told_before_a_server_starts(monkeypatch, tmp_path, capsys):
    module = import_module("flows.release")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["flows/release.py", "--run", "nope"])
    monkeypatch.setattr(module, "some_server", lambda: pytest.fail("started"))
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: there is no run nope; expected one of: there are none\n"


def test_a_grid_that_is_not_there_is_told_before_a_server_starts(monkeypatch, tmp_path):
    module = import_module("flows.sweep")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["flows/sweep.py", "nope"])
    monkeypatch.setattr(module, "refuse_edits", lambda: pytest.fail("the grid is looked for first"))
    monkeypatch.setattr(module, "some_server", lambda: pytest.fail("started"))
    with pytest.raises(InputError, match="there is no grid 'nope'"):
        module.main()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("align --ratio nan", "pairs.support_ratio: input should be a finite number"),
        ("align --ratio x", "invalid float value: 'x'"),
        ("align --ratio 0 --ratio 7", "less than or equal to 1"),
        ("sweep", "required: grid"),
        ("sweep ../x", "there is no grid '../x'"),
        ("sweep course --jobs 0", "--jobs is 0; expected a number of 1 or more"),
        ("sweep course --jobs x", "--jobs is x; expected a number of 1 or more, auto, or pool"),
        ("release --run", "expected one argument"),
        ("release --run ..", "there is no run .."),
        ("server x", "unrecognized arguments: x"),
        ("worker", "PREFECT_API_URL is not set"),
    ],
)
def test_wrong_arguments_of_a_flow_are_told_before_a_server_starts(line, problem, monkeypatch, capsys):
    name, *arguments = line.split()
    module = import_module(f"flows.{name}")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr("sys.argv", [f"flows/{name}.py", *arguments])
    monkeypatch.setattr(module, "some_server", lambda: pytest.fail("started"), raising=False)
    with pytest.raises(SystemExit) as ended:
        run(module.main)
    assert ended.value.code in (1, 2)
    assert problem in capsys.readouterr().err


STAGES = sorted(path.stem for path in Path("tasks").glob("[!_]*.py"))


@pytest.mark.parametrize("name", STAGES)
def test_help_of_a_stage_is_printed_and_nothing_is_written(name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [f"tasks/{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(f"tasks.{name}").main()
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("usage: python -m ")
    assert shown.err == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in STAGES if name != "stance"])
def test_a_wrong_number_of_paths_of_a_stage_is_told(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [f"tasks/{name}.py"])
    with pytest.raises(SystemExit) as ended:
        import_module(f"tasks.{name}").main()
    assert ended.value.code == 2
    assert "the following arguments are required: " in capsys.readouterr().err
