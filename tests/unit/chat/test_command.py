"""The command `chat` becomes the server of its page, so that whoever ends the command ends the server."""

import os
import subprocess
import sys

import pytest

from stance.chat import command as chat
from stance.pages import served


def test_the_page_is_served_by_the_process_that_was_started(monkeypatch, capsys):
    becomes = []
    monkeypatch.setattr(sys, "argv", ["python -m stance chat", "8765"])
    monkeypatch.setattr(served, "find_spec", lambda name: name)
    monkeypatch.setattr(served, "in_use", lambda port: False)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started another process"))
    monkeypatch.setattr(os, "execv", lambda program, arguments: becomes.append((program, arguments)))
    chat.main()
    [(program, arguments)] = becomes
    assert program == sys.executable
    assert arguments[:5] == [sys.executable, "-m", "streamlit", "run", chat.PAGE]
    assert "8765" in arguments
    assert capsys.readouterr().out.startswith("the page asks http")
