"""The flow `release`: from a run, or the data for one, to its gates, an approval, the Hub, the endpoint and a question.

    python -m flows.release                 # the run of this folder, uncommitted edits included
    python -m flows.release --run NAME      # an existing run of a sweep or of the web page

A release looks at files, Hub and endpoint each time; nothing is cached. The gates and the approval come before anything
outside has changed. The checks of a running engine come after the push. If they fail, or the release is cancelled, the
previous model answers again, and `data/release` is restored.
"""

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from pydantic import Field

from flows.align import INTERRUPTED, in_workspace, own_workspace
from flows.artifacts import gate_table, verdict
from flows.choices import Choice, runs
from flows.server import some_server
from flows.settings import Settings
from flows.steps import PATIENCE
from stance.client.local import state
from stance.config.params import Params
from stance.config.release import Hub
from stance.data.records import Gate, require
from stance.errors import InputError, Unreachable
from stance.language.messages import sentence
from stance.machine.digests import Digests
from stance.machine.locks import exclusive
from stance.preflight.checks import check_token
from stance.release.held import BEFORE, record, release_gates, require_own, restore_previous
from stance.release.push import push as push_to_hub
from stance.release.recomputation import recompute
from stance.runs.catalogue import finished
from stance.runs.finished import FinishedRun
from stance.runs.provenance import RELEASE
from stance.runs.released import Pushed, Release
from stance.serving.command import require_place, rollback, serve_run, stop

REFUSED = "not released, and nothing outside has changed"
SHOWN = 20
"""The number of answers that the approval shows; the report has all."""


class Approval(RunInput):
    """The form that a person fills in to approve a release in the UI."""

    approve: bool = Field(description="Release this model?")
    reason: str = Field(default="", description="For the record.")


@flow(name="release")
def release(
    run: Annotated[str, Choice(runs)] | None = None,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    uncommitted: bool = False,
    stage_minutes: Annotated[float, Field(ge=0)] = 0,
    approval_minutes: Annotated[float, Field(ge=0)] = 0,
    answering: bool = True,
) -> dict[str, Any]:
    """Release a model: push it to the Hub if `hub.push` is true, and serve it behind the endpoint.

    Args:
        run: The run to release; empty: align one first.
        settings: The parameters of a new run; for an existing run only `hub.*` counts. Empty: as in params.yaml.
        uncommitted: Include uncommitted edits in a new run, and record them; off: start it from the last commit.
        stage_minutes: Time limit of a stage of a new run in minutes; 0 for none.
        approval_minutes: Minutes that a person has to approve; 0 for no approval.
        answering: Serve the model behind this machine's endpoint; if not, the release is only put into `data/release`.
    """
    hub = Params.parse(settings.parameters().values(Path("params.yaml")), "params.yaml").hub
    if hub.push:
        check_token()
    if answering:
        require_place()
    folder = finished(run) if run else own_workspace(settings, uncommitted)
    if not run:
        in_workspace(folder, stage_minutes)
    digests: Digests = {}
    if approval_minutes:
        shown, gates = verified(folder)
        approve(shown, gates, approval_minutes)
        digests = shown.digests
    with exclusive(RELEASE.with_name("release.lock"), "another release is under way here; wait until it has ended"):
        require_own()
        settle()
        checked, _ = verified(folder, digests)  # hours may have passed since the approval
        on_hub = push(checked, hub) if hub.push else {}
        record_release(checked, on_hub)
        answer = deploy(checked, on_hub) if answering else {"release": checked.release, "address": str(RELEASE)}
        shutil.rmtree(BEFORE, ignore_errors=True)
        return answer


def verified(folder: Path, earlier: Digests | None = None) -> tuple[FinishedRun, list[Gate]]:
    """Return the run in a folder, and its gates. They are checked first, because measuring a run again takes minutes.

    Args:
        folder: The project, or a workspace of it.
        earlier: Digests of a run that was measured already; then only its files and gates are looked at.

    Raises:
        InputError: The run is refused, a gate is missed, or a measurement gives something else.
    """
    with refusing():
        run = FinishedRun.read(folder, earlier)
    gates = judge(run)
    require(gates, REFUSED)
    if not earlier:
        with refusing():
            recompute(run)
    return run, gates


@contextmanager
def refusing() -> Iterator[None]:
    """Say that nothing outside has changed, if a run is refused."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{REFUSED}: {error}") from None


def deploy(run: FinishedRun, on_hub: Mapping[str, Pushed]) -> dict[str, Any]:
    """Put a release behind the endpoint and ask it a question; if that fails, all is as it was before."""
    before = answering_release()
    try:
        address = serve(run)
        create_link_artifact(address, link_text="the endpoint", key="endpoint", description=run.name)
        return ask(run, address)
    except InputError as error:
        withdraw(run, before)
        left = f" (the Hub has the tag {run.release} all the same; delete it there)" if on_hub else ""
        raise type(error)(f"{error}{left}") from None
    except BaseException:
        withdraw(run, before)
        raise


def withdraw(run: FinishedRun, before: str | None) -> None:
    """Let the endpoint and `data/release` be as they were.

    Args:
        run: The run of the release that did not come to its end.
        before: The release that answered before; None if no endpoint was up.
    """
    if answering_release() == run.release != before:
        try:
            get_run_logger().info(stop() if before is None else rollback())
        except InputError as error:  # there was no memory for two engines: the new release stays in both places
            get_run_logger().error("%s answers, and is in %s: %s", run.release, RELEASE, error)
            return
    restore_previous()


def settle() -> None:
    """Let `data/release` hold the release that answers, if a release was killed between the two."""
    last = Release.last(RELEASE)
    if BEFORE.exists() and last and last.release == answering_release():
        shutil.rmtree(BEFORE)
    restore_previous()


def answering_release() -> str | None:
    """Return the release that the endpoint of this folder serves, or None if no endpoint is up."""
    current = state()
    return str(current["live"]["release"]) if current else None


@task(task_run_name="gates", cache_policy=NO_CACHE)
def judge(run: FinishedRun) -> list[Gate]:
    """Collect the gates of a run and show them in the UI."""
    gates = release_gates(run)
    create_markdown_artifact("\n".join(gate_table(gates)), key="gates", description=run.name)
    return gates


def approve(run: FinishedRun, gates: Sequence[Gate], minutes: float) -> None:
    """Wait until a person has seen the gates and the answers, and has approved the release.

    Raises:
        InputError: The person refused, or nobody answered in time.
    """
    form = Approval.with_initial_data(description=question(run, gates))
    try:
        answer = pause_flow_run(wait_for_input=form, timeout=round(60 * minutes), poll_interval=2)
    except FlowPauseTimeout:
        raise InputError(f"nobody approved within {minutes:g} minutes; release {run.name} again") from None
    if not answer.approve:
        raise InputError(f"not approved: {answer.reason or 'no reason given'}; nothing outside has changed")
    get_run_logger().info("approved: %s", answer.reason or "no reason given")


def question(run: FinishedRun, gates: Sequence[Gate]) -> str:
    """Return the text of the approval in Markdown: gates and answers as lists, because the dialog cuts off tables."""
    lines = [f"Release `{run.release}`, the run **{run.name}**?", "", "**Gates**", ""]
    lines += [
        f"* {gate.name} {verdict(gate)}: {sentence(gate.figure)}; expected {sentence(gate.bound)}" for gate in gates
    ]
    lines += ["", "**Answers**, before → after", ""]
    lines += [
        f"* {row.prompt} {row.response_from_original_model} → **{row.response_from_trained_model}**"
        for row in run.responses[:SHOWN]
    ]
    return "\n".join([*lines, ""])


@task(task_run_name="push", cache_policy=NO_CACHE, **PATIENCE)
def push(run: FinishedRun, hub: Hub) -> dict[str, Pushed]:
    """Publish the adapter and the merged model, and verify what the Hub holds then."""
    pushed = push_to_hub(run, hub)
    for part, repository in pushed.items():
        create_link_artifact(repository.url, link_text=repository.repo_id, key=f"hub-{part}", description=run.name)
    return pushed


@task(task_run_name="record", cache_policy=NO_CACHE)
def record_release(run: FinishedRun, on_hub: Mapping[str, Pushed]) -> None:
    """Replace the release in `data/release`. The previous one stays beside it until the new one answers."""
    record(run, on_hub)


@task(task_run_name="serve", cache_policy=NO_CACHE)
def serve(run: FinishedRun) -> str:
    """Put the model behind the endpoint, beside the model that answers until then."""
    return serve_run(run.folder, get_run_logger().info, run.digests)


@task(task_run_name="smoke", cache_policy=NO_CACHE)
def ask(run: FinishedRun, address: str) -> dict[str, Any]:
    """Ask the public endpoint for its release, and one question."""
    from stance.client.smoke import smoke  # OpenAI's client takes a second to import

    answer = smoke(address, run.release, run.params, run.responses[0].prompt)
    get_run_logger().info("%s answers at %s: %s", answer["release"], address, answer["answer"])
    return answer


def main() -> None:
    """Release from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.release",
        description="Release the model of a run: gates, Hub, endpoint, a first question.",
    )
    parser.add_argument(
        "--run",
        help="the name of an existing run (default: a new run of this folder as it is, uncommitted edits included; "
        "of the stages that have run here only merge runs again)",
    )
    options = parser.parse_args()
    logging.getLogger("prefect").setLevel(logging.INFO)
    try:
        if options.run:
            finished(options.run)  # A wrong name is told before a server starts.
        with some_server():
            answer = release(run=options.run, uncommitted=True)
    except KeyboardInterrupt:
        print("ended before the release was complete; the same command starts it again", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (InputError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, Unreachable | ConnectionError) else 1)
    print(f"released {answer['release']}: {answer['address']}")
    print("It answers until `.venv/bin/python -m stance serve stop`. Its records are in data/release.")


if __name__ == "__main__":
    main()
