"""The launch forms list the runs and grids that there are, and follow when there are others."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from prefect.utilities.callables import parameter_schema

from flows import deployments
from flows.release import release
from flows.serve import serve
from flows.sweep import sweep
from stance.runs.record import Run


def record(name: str, day: int, state: Any = "completed") -> None:
    created = datetime(2026, 1, day, tzinfo=UTC)
    Run(name=name, commit="c", snapshot="c", created=created, state=state).write(Path(".runs") / name)


def field(flow: Any, name: str) -> dict[str, Any]:
    return dict(parameter_schema(flow).properties[name])


def test_completed_runs_are_listed_the_newest_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record("older", 1)
    record("newer", 2)
    record("broken", 3, "failed")
    assert field(serve, "run")["enum"] == ["", "newer", "older"]
    assert field(release, "run")["anyOf"][0]["enum"] == ["newer", "older"]


def test_without_a_run_the_release_form_has_a_free_field(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert field(serve, "run")["enum"] == [""]
    assert "enum" not in field(release, "run")["anyOf"][0]


def test_grids_are_listed():
    assert field(sweep, "grid")["enum"] == sorted(path.stem for path in Path("grids").glob("*.yaml"))


def test_a_form_is_sent_again_when_there_is_a_new_run_and_only_then(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = MagicMock()
    client.__enter__.return_value = client
    client.read_deployment_by_name.return_value = SimpleNamespace(id="7")
    monkeypatch.setattr(deployments, "get_client", lambda **_options: client)
    schemas = {"serve": parameter_schema(serve).model_dump()}
    deployments.refresh([serve], schemas)
    assert not client.update_deployment.called
    record("newer", 2)
    deployments.refresh([serve], schemas)
    deployments.refresh([serve], schemas)
    [call] = client.update_deployment.call_args_list
    assert call.args[0] == "7"
    assert call.args[1].parameter_openapi_schema["properties"]["run"]["enum"] == ["", "newer"]
