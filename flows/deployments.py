"""Serves the deployments, one process of `make ui`: runs that are asked for in the UI start here.

A run whose process has died without a word - a `kill -9`, a power cut - is marked crashed first; retried in the UI, it
goes on in its workspace.
"""

from typing import cast
from uuid import UUID

from prefect import serve
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.states import Crashed, State

from flows.align import align
from flows.release import release
from flows.serve import serve as serve_flow
from flows.sweep import sweep
from stance.runs import workspace


def mark_crashed() -> list[str]:
    """Mark the runs that nobody works on any more as crashed, and return their names."""
    dead = [(folder, run) for folder, run in workspace.all_runs() if run.open and not run.alive()]
    for folder, run in dead:
        workspace.clean_up(folder)
        if run.flow_run_id:
            show_crashed(UUID(run.flow_run_id))
        if run.state == "starting":  # its workspace is not whole
            workspace.remove(run.name)
        else:
            run.updated(folder, state="crashed", problem="its process has died")
    return [run.name for _, run in dead]


def show_crashed(flow_run: UUID) -> None:
    """Say in the UI that a run is over, unless it is known, or it has been asked for again since."""
    with get_client(sync_client=True) as client:
        try:
            known = client.read_flow_run(flow_run).state
        except ObjectNotFound:  # another server's
            return
        if known is None or not (known.is_final() or known.is_scheduled()):
            state: State[None] = Crashed(message="Its process has died; retry it, and it goes on where it was.")
            client.set_flow_run_state(flow_run, state, force=True)


def main() -> None:
    """Sweep up, then serve until the end."""
    for name in mark_crashed():
        print(f"{name} had crashed")
    deployments = (
        align.to_deployment("align", description="Align a model with a stance, in a workspace of its own."),
        sweep.to_deployment("sweep", description="A grid of runs, and a page that compares them."),
        release.to_deployment("release", description="Gates, approval, Hub, endpoint, a first question."),
        serve_flow.to_deployment("serve", description="Let a run's model answer behind the endpoint."),
    )
    limit = get_current_settings().runner.process_limit
    # Another process may serve on when this one ends.
    serve(*(cast(RunnerDeployment, known) for known in deployments), limit=limit, pause_on_shutdown=False)


if __name__ == "__main__":
    main()
