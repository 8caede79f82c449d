"""The process of `make ui` that serves the deployments: it starts the runs that users launch in the UI.

First it marks runs as crashed whose process has died, for example by `kill -9` or a power cut. A crashed run that is
retried in the UI continues in its workspace.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any, cast
from uuid import UUID

from prefect import Flow, serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.states import Crashed, State
from prefect.utilities.callables import parameter_schema

from flows.align import align
from flows.release import release
from flows.serve import serve as serve_flow
from flows.sweep import sweep
from stance.errors import prepare
from stance.machine.processes import name_the_user
from stance.runs import workspace

DIED = "The process of this run has died. Retry the run to continue it."
EVERY = 3
"""Seconds between two looks for new runs, grids and values for the launch forms."""


def mark_crashed() -> list[str]:
    """Mark runs as crashed whose process has died, and return their names.

    A run that ended itself together with its server has its state in the record, but not in the UI.
    """
    dead = [(folder, run) for folder, run in workspace.all_runs() if run.state != "completed" and not run.alive()]
    show_crashed({UUID(run.flow_run_id): run.tries for _, run in dead if run.flow_run_id})
    for folder, run in dead:
        if not run.open:
            continue
        workspace.clean_up(folder)
        if run.state == "starting":  # its workspace is incomplete
            workspace.remove(run.name)
        else:
            run.updated(folder, state="crashed", problem="its process has died")
    return [run.name for _, run in dead if run.open]


def show_crashed(flow_runs: Mapping[UUID, int]) -> None:
    """Show runs as crashed in the UI, unless they have ended there, are scheduled again, or were begun again elsewhere.

    Args:
        flow_runs: By the id of Prefect's flow run, how often it had been begun when it was begun here.
    """
    if not flow_runs:
        return
    with get_client(sync_client=True) as client:
        for flow_run, tries in flow_runs.items():
            with suppress(ObjectNotFound):  # the run of another server
                if stopped(client.read_flow_run(flow_run), tries):
                    state: State[None] = Crashed(message=DIED)
                    client.set_flow_run_state(flow_run, state, force=True)


def stopped(flow_run: FlowRun, tries: int) -> bool:
    """Does the server still take a run for running that was begun here last, as its `tries`-th try?"""
    begun_elsewhere = flow_run.run_count > max(tries, 1)
    state = flow_run.state
    return not begun_elsewhere and (state is None or not (state.is_final() or state.is_scheduled()))


def refresh(flows: Sequence[Flow[Any, Any]], schemas: dict[str, dict[str, Any]]) -> None:
    """Give every launch form whose schema has changed its new schema: other runs, grids or values of `params.yaml`.

    Args:
        flows: The flows, each with a deployment of the same name.
        schemas: The schemas that the forms have, by the name of the flow; is brought up to date.
    """
    for served in flows:
        schema = parameter_schema(served).model_dump()
        if schemas.get(served.name) == schema:
            continue
        with get_client(sync_client=True) as client:
            form = client.read_deployment_by_name(f"{served.name}/{served.name}")
            client.update_deployment(form.id, DeploymentUpdate(parameter_openapi_schema=schema))
        schemas[served.name] = schema


def keep_fresh(flows: Sequence[Flow[Any, Any]]) -> None:
    """Refresh the launch forms every few seconds, as long as the process lives."""
    schemas = {served.name: parameter_schema(served).model_dump() for served in flows}
    while True:
        time.sleep(EVERY)
        with suppress(Exception):  # the server is busy or starting, or a record is being written: next time
            refresh(flows, schemas)


def main() -> None:
    """Mark crashed runs, then serve the deployments until the process ends."""
    argparse.ArgumentParser(
        prog="python -m flows.deployments",
        description="Mark crashed runs, then run the flows that are launched at the Prefect server in PREFECT_API_URL. "
        "`make ui` starts this command.",
    ).parse_args()
    prepare()
    name_the_user()
    for name in mark_crashed():
        print(f"{name} had crashed")
    deployments = (
        align.to_deployment("align", description="Align a model with a stance, in a workspace of its own."),
        sweep.to_deployment("sweep", description="A grid of runs, and a page that compares them."),
        release.to_deployment("release", description="Gates, approval, push to the Hub, endpoint, a first question."),
        serve_flow.to_deployment("serve", description="Serve the model of a run behind the endpoint."),
    )
    limit = get_current_settings().runner.process_limit
    Thread(target=keep_fresh, args=[(align, sweep, release, serve_flow)], daemon=True).start()
    # Not paused at the end, because another process may serve the same deployments.
    serve(*(cast(RunnerDeployment, deployment) for deployment in deployments), limit=limit, pause_on_shutdown=False)


if __name__ == "__main__":
    main()
