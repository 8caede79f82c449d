"""What the start of `make ui` does with the runs of processes that have died."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Running, Scheduled, State

from flows import deployments

FLOW_RUN = str(UUID(int=7))


@pytest.mark.parametrize(
    ("state", "alive", "shown", "crashed"),
    [
        ("running", False, True, True),
        ("running", True, False, False),
        ("cancelled", False, True, False),  # it ended itself together with its server, which still shows it as running
        ("failed", False, True, False),
        ("failed", True, False, False),  # another try is waiting
        ("completed", False, False, False),
    ],
)
def test_a_run_whose_process_has_died_is_no_longer_shown_as_running(
    monkeypatch, tmp_path, state, alive, shown, crashed
):
    record = SimpleNamespace(
        name="one",
        state=state,
        open=state == "running",
        alive=lambda: alive,
        flow_run_id=FLOW_RUN,
        tries=1,
        updated=lambda folder, **changes: None,
    )
    asked = []
    monkeypatch.setattr(deployments.workspace, "all_runs", lambda: [(tmp_path, record)])
    monkeypatch.setattr(deployments.workspace, "clean_up", lambda folder: None)
    monkeypatch.setattr(deployments, "show_crashed", asked.append)
    assert deployments.mark_crashed() == (["one"] if crashed else [])
    assert asked == [{UUID(FLOW_RUN): 1} if shown else {}]


class Server:
    """Prefect's client, as far as it knows the states of runs."""

    def __init__(self, runs: dict[UUID, FlowRun]) -> None:
        """Know these runs."""
        self.runs = runs
        self.opened = 0
        self.changed: dict[UUID, str] = {}

    @contextmanager
    def open(self, *, sync_client: bool) -> Iterator["Server"]:
        """Count how often a client is opened."""
        self.opened += sync_client
        yield self

    def read_flow_run(self, ident: UUID) -> FlowRun:
        """Return a run, or raise as Prefect does."""
        if ident not in self.runs:
            raise ObjectNotFound(Exception(ident))
        return self.runs[ident]

    def set_flow_run_state(self, ident: UUID, state: State, *, force: bool) -> None:
        """Keep the new state."""
        self.changed[ident] = state.type


def run(state: State | None, begun: int) -> FlowRun:
    """Return a run of the server, so often begun."""
    return FlowRun(flow_id=UUID(int=0), state=state, run_count=begun)


def test_one_client_shows_all_runs_as_crashed_that_the_server_takes_for_running(monkeypatch):
    here, stateless, ended, again, elsewhere, unknown = (UUID(int=number) for number in range(1, 7))
    server = Server(
        {
            here: run(Running(), 1),
            stateless: run(None, 2),
            ended: run(Completed(), 1),
            again: run(Scheduled(), 1),
            elsewhere: run(Running(), 2),
        }
    )
    monkeypatch.setattr(deployments, "get_client", server.open)
    deployments.show_crashed({unknown: 1, here: 1, stateless: 2, ended: 1, again: 1, elsewhere: 1})
    assert (server.opened, server.changed) == (1, {here: "CRASHED", stateless: "CRASHED"})


def test_no_client_is_opened_without_a_run_to_show(monkeypatch):
    monkeypatch.setattr(deployments, "get_client", lambda **_: pytest.fail("opened"))
    deployments.show_crashed({})
