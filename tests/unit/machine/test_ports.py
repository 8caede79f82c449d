"""Ports by the environment and the command line."""

import pytest

from stance.errors import InputError
from stance.machine.ports import parse_port, port_in


@pytest.mark.parametrize("text", ["abc", "0", "65536", "-1", "80.5", ""])
def test_what_is_no_port_is_refused(text):
    with pytest.raises(InputError, match=f"the port is '{text}'; expected a number from 1 to 65535"):
        parse_port(text)


def test_a_port_is_that_of_the_environment_or_the_usual_one(monkeypatch):
    monkeypatch.setenv("PORT", "4300")
    assert port_in("PORT", 4200) == 4300
    monkeypatch.setenv("PORT", "")
    assert port_in("PORT", 4200) == 4200
