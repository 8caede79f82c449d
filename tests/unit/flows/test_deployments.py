"""What the start of `make ui` does with the runs of processes that have died."""

from types import SimpleNamespace
from uuid import UUID

import pytest

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
    ended = []
    monkeypatch.setattr(deployments.workspace, "all_runs", lambda: [(tmp_path, record)])
    monkeypatch.setattr(deployments.workspace, "clean_up", lambda folder: None)
    monkeypatch.setattr(deployments, "show_crashed", lambda flow_run, tries: ended.append((flow_run, tries)))
    assert deployments.mark_crashed() == (["one"] if crashed else [])
    assert ended == ([(UUID(FLOW_RUN), 1)] if shown else [])
