"""`--help` of a flow prints its help and starts nothing."""

import subprocess
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["align", "deployments", "release", "server", "sweep", "worker"])
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
