"""The runs of a grid on a pool: launched once, put back after a crash, and waited for while a server is away."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.exceptions import ObjectNotFound
from prefect.logging import disable_run_logger
from prefect.states import Completed, Crashed, Failed, Running, Scheduled, State

from flows import pool, sweep
from flows.pool import MOST, Watch, launch_all
from stance.errors import InputError, Unreachable


class Server:
    """A Prefect server as its client sees it."""

    def __init__(self, **states: State[Any] | None) -> None:
        self.runs = {name: SimpleNamespace(id=uuid4(), name=name, state=state) for name, state in states.items()}
        self.keys: list[str] = []
        self.put_back: list[str] = []
        self.asked: list[int] = []
        self.away = False

    def read_deployment_by_name(self, name: str) -> Any:
        return SimpleNamespace(id=uuid4())

    def create_flow_run_from_deployment(self, deployment: UUID, **values: Any) -> Any:
        self.keys.append(values["idempotency_key"])
        assert values["parameters"]["commit"] == "c0ffee"
        return self.runs[values["name"]]

    def set_flow_run_state(self, ident: UUID, state: State[Any], force: bool) -> None:
        assert (state.type, force) == (Scheduled().type, True)
        [name] = (name for name, run in self.runs.items() if run.id == ident)
        self.put_back.append(name)

    def read_flow_runs(self, flow_run_filter: Any, limit: int) -> list[Any]:
        if self.away:
            raise httpx.ConnectError("refused")
        wanted = flow_run_filter.id.any_
        self.asked.append(len(wanted))
        return [run for run in self.runs.values() if run.id in wanted]


def watch(server: Server, said: list[str], taken: list[str] | None = None) -> Watch:
    waiting = {name: run.id for name, run in server.runs.items()}
    return Watch(server, waiting, (taken if taken is not None else []).append, said.append)  # type: ignore[arg-type]


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The records in the DVC remote, by name; an error is raised."""
    records: dict[str, Any] = {}

    def published(name: str) -> Any:
        if isinstance(record := records.get(name), Exception):
            raise record
        return record

    monkeypatch.setattr(pool, "published", published)
    return records


def test_every_run_is_launched_under_its_name_and_one_that_had_ended_is_put_back():
    server = Server(new=Scheduled(), going=Running(), failed=Failed(), lost=Completed())
    idents = launch_all(server, dict.fromkeys(server.runs, {"seed": 1}), "c0ffee")
    assert idents == {name: run.id for name, run in server.runs.items()}
    assert server.keys == ["new", "going", "failed", "lost"]
    assert server.put_back == ["failed", "lost"]


def test_a_sweep_on_a_pool_says_at_once_that_there_is_no_remote_or_that_it_is_away(monkeypatch):
    monkeypatch.setattr(sweep.stages, "remote", lambda folder: None)
    with pytest.raises(InputError, match="share runs by a DVC remote, and there is none: see docs/scale.md"):
        sweep.on_workers({"a": {}})

    def published(name: str) -> None:
        raise ConnectionError("the remote store does not answer")

    monkeypatch.setattr(sweep.stages, "remote", lambda folder: "store")
    monkeypatch.setattr(sweep.shared, "published", published)
    with pytest.raises(Unreachable, match="does not answer; nothing was launched, the same command tries again"):
        sweep.on_workers({"a": {}})


def test_a_server_without_the_deployment_is_named_with_what_to_do():
    server = Server()

    def missing(name: str) -> None:
        raise ObjectNotFound(Exception(name))

    server.read_deployment_by_name = missing  # type: ignore[method-assign]
    with pytest.raises(InputError, match="no deployment swept/pool; name the server of the pool by PREFECT_API_URL"):
        launch_all(server, {}, "c0ffee")


def test_a_complete_run_is_taken_whatever_its_last_state_was(remote):
    server, said, taken = Server(a=Crashed(), b=Completed()), [], []
    remote.update(a="record a", b="record b")
    watching = watch(server, said, taken)
    for run in watching.ended():
        watching.finish(run)
    assert (taken, server.put_back, watching.waiting, watching.problems) == (["record a", "record b"], [], {}, {})
    assert said == ["a: complete; 1 left", "b: complete; 0 left"]


def test_a_crashed_run_is_put_back_a_few_times_and_then_given_up(remote):
    server, said = Server(a=Crashed(message="its worker died")), []
    watching = watch(server, said)
    for _ in range(MOST):
        assert watching.waiting
        watching.finish(server.runs["a"])
    assert server.put_back == ["a"] * (MOST - 1)
    assert watching.problems == {"a": "its worker died"}
    assert said == ["a crashed, and waits for a worker again", "a: its worker died; 0 left"]


def test_a_failed_run_is_given_up_at_once(remote):
    server = Server(a=Failed(message="seed 13 brings bad luck"))
    watching = watch(server, [])
    watching.finish(server.runs["a"])
    assert (server.put_back, watching.problems) == ([], {"a": "seed 13 brings bad luck"})


def test_a_run_with_a_damaged_record_is_given_up_and_the_others_go_on(remote):
    server, said, taken = Server(a=Completed(), b=Completed()), [], []
    remote.update(a=InputError("records/a.json in the remote is no record of a run; remove it"), b="record b")
    watching = watch(server, said, taken)
    for run in watching.ended():
        watching.finish(run)
    assert (taken, watching.waiting) == (["record b"], {})
    assert watching.problems == {"a": "records/a.json in the remote is no record of a run; remove it"}


def test_a_run_waits_while_the_remote_or_the_server_is_away(remote):
    server, said = Server(a=Completed()), []
    watching = watch(server, said)
    remote["a"] = ConnectionError("the remote store does not answer")
    for _ in range(3):
        watching.finish(server.runs["a"])
    assert watching.waiting
    assert said == ["a has ended, and must wait: the remote store does not answer"]
    server.away = True
    assert watching.ended() == watching.ended() == []
    assert said[1:] == ["the Prefect server does not answer (ConnectError); the workers go on"]


def test_more_runs_than_a_page_are_read_page_by_page():
    server = Server(**{f"r{number}": Completed() for number in range(450)})
    assert len(watch(server, []).ended()) == 450
    assert server.asked == [200, 200, 50]


@pytest.mark.parametrize("error", [ConnectionError("the remote is away"), Unreachable("git is away")])
def test_a_worker_waits_for_a_server_that_is_away(error, monkeypatch):
    monkeypatch.setattr(sweep, "AGAIN", 0)
    answers = [error, error, {"train": "ran"}]

    def work() -> dict[str, str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with disable_run_logger():
        assert sweep.patiently(work) == {"train": "ran"}


def test_a_worker_waits_for_no_other_failure_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(sweep, "HOURS", 0)
    for error in (RuntimeError("seed 13 brings bad luck"), ConnectionError("away")):
        tries = []

        def work(error: Exception = error, tries: list[int] = tries) -> dict[str, str]:
            tries.append(1)
            raise error

        with disable_run_logger(), pytest.raises(type(error)):
            sweep.patiently(work)
        assert tries == [1]
