"""The runs of a grid on the workers of a work pool: launched at the Prefect server, watched, put back after a crash.

`flows.sweep` calls `make_all`. A run is launched under its own name as idempotency key. So the server has it once,
however often the sweep is started. What a run made comes from the DVC remote (`stance.runs.shared`).
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from stance.errors import InputError, Unreachable
from stance.runs.shared import Shared, published

DEPLOYMENT = "swept/pool"
EVERY = 3
"""Seconds between two looks at the runs."""
MOST = 3
"""How often a run may crash. A run that ends its machine's process each time must not go round for ever."""
PAGE = 200
"""The number of runs that Prefect's server returns at a time."""


def make_all(
    points: Mapping[str, Mapping[str, Any]], commit: str, take: Callable[[Shared], None], log: Callable[[str], None]
) -> dict[str, str]:
    """Make the runs of a grid on the workers of the pool, and return the problems of those that failed, by name.

    Args:
        points: The parameters of each run, by its name.
        commit: The commit that the workers fetch and work at.
        take: Called for each run that is complete, with its record in the DVC remote.
        log: Called with one sentence for each change.

    Raises:
        InputError: There is no such deployment.
    """
    with get_client(sync_client=True) as client:
        watch = Watch(client, launch_all(client, points, commit), take, log)
        watch.say(f"waiting for the workers of the pool: {len(points)} in all, at commit {commit[:12]}")
        while watch.waiting:
            for run in watch.ended():
                watch.finish(run)
            time.sleep(EVERY if watch.waiting else 0)
    return watch.problems


def launch_all(client: SyncPrefectClient, points: Mapping[str, Mapping[str, Any]], commit: str) -> dict[str, UUID]:
    """Launch the runs, and put back those that an earlier sweep launched in vain; return their ids by name.

    Raises:
        InputError: There is no such deployment.
    """
    try:
        deployment = client.read_deployment_by_name(DEPLOYMENT).id
    except ObjectNotFound:
        raise InputError(
            f"the Prefect server has no deployment {DEPLOYMENT}; name the server of the pool by PREFECT_API_URL, and "
            "deploy there (docs/scale.md)"
        ) from None
    launched = {}
    for name, point in points.items():
        parameters = {"name": name, "point": dict(point), "commit": commit}
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters, name=name, idempotency_key=name)
        if run.state and run.state.is_final():
            put_back(client, run)
        launched[name] = run.id
    return launched


def put_back(client: SyncPrefectClient, run: FlowRun) -> None:
    """Let a run wait for a worker again."""
    client.set_flow_run_state(run.id, Scheduled(), force=True)


@dataclass
class Watch:
    """The runs that a sweep waits for, and what became of the others."""

    client: SyncPrefectClient
    waiting: dict[str, UUID]
    """The ids of the runs that have not ended, by name."""
    take: Callable[[Shared], None]
    log: Callable[[str], None]
    problems: dict[str, str] = field(default_factory=dict)
    """Why runs failed, by name."""
    crashes: Counter[str] = field(default_factory=Counter)
    last: str = ""
    """The last sentence in the log."""

    def say(self, sentence: str) -> None:
        """Log a sentence, unless the last one was the same."""
        if sentence != self.last:
            self.log(sentence)
            self.last = sentence

    def ended(self) -> list[FlowRun]:
        """Return the runs that have ended; none while the server does not answer."""
        idents, runs = list(self.waiting.values()), list[FlowRun]()
        try:
            for first in range(0, len(idents), PAGE):
                chosen = FlowRunFilter(id=FlowRunFilterId(any_=idents[first : first + PAGE]))
                runs += self.client.read_flow_runs(flow_run_filter=chosen, limit=PAGE)
        except httpx.HTTPError as error:
            self.say(f"the Prefect server does not answer ({type(error).__name__}); the workers go on")
        return [run for run in runs if run.state and run.state.is_final()]

    def finish(self, run: FlowRun) -> None:
        """Take what a run made that has ended, or put it back if it crashed, or keep its problem.

        If the remote or the server does not answer, the next look finds the run as it is.
        """
        try:
            shared = published(run.name)
            if shared:
                self.take(shared)
            elif run.state and run.state.is_crashed() and self.crashes[run.name] + 1 < MOST:
                put_back(self.client, run)
                self.crashes[run.name] += 1
                self.say(f"{run.name} crashed, and waits for a worker again")
                return
            else:
                state = run.state
                self.problems[run.name] = (state and (state.message or state.name)) or "it did not end well"
        except (ConnectionError, Unreachable, httpx.HTTPError) as error:
            self.say(f"{run.name} has ended, and must wait: {error}")
            return
        except InputError as error:  # it will not pass: a damaged record
            self.problems[run.name] = str(error)
        del self.waiting[run.name]
        self.say(f"{run.name}: {self.problems.get(run.name, 'complete')}; {len(self.waiting)} left")
