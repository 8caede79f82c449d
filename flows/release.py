"""From data to an endpoint: a run, its gates, somebody's approval, the Hub, the server, a first question.

    python -m flows.release                 # align first, as params.yaml says
    python -m flows.release --run NAME      # a run that there is

A release looks at the world each time; nothing of it is cached. Gates, approval, and whatever else can be known before
decide before anything outside has changed. What only a running engine shows comes after the push; if it refuses, what
answered goes on answering, and `data/release` is what it was.
"""

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
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

from flows.align import in_workspace, own_workspace
from flows.artifacts import VERDICT, gate_table
from flows.server import some_server
from flows.settings import Settings
from flows.steps import PATIENCE
from stance.client.smoke import smoke
from stance.config.params import Params
from stance.config.release import Hub
from stance.data.chat import fingerprint, load_tokenizer
from stance.data.records import Gate, require
from stance.errors import InputError, Unreachable
from stance.language.messages import message, sentence
from stance.machine.digests import Digests
from stance.machine.files import read_json
from stance.machine.locks import exclusive
from stance.preflight.checks import check_token
from stance.release.held import BEFORE, record, restore_previous
from stance.release.push import push as push_to_hub
from stance.runs.catalogue import finished
from stance.runs.finished import MERGED, OUTPUTS, FinishedRun
from stance.runs.provenance import RECORD, RELEASE
from stance.serving.command import require_place, serve_run
from stance.serving.file_checks import files_gate, tokenizer_gate

SHOWN = 20
"""Answers that whoever approves is shown; the report has all."""


class Approval(RunInput):
    """What a person answers in the UI."""

    approve: bool = Field(description="Release this model?")
    reason: str = Field(default="", description="For the record.")


@flow(name="release")
def release(
    run: str | None = None,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    uncommitted: bool = False,
    stage_minutes: Annotated[float, Field(ge=0)] = 0,
    approval_minutes: Annotated[float, Field(ge=0)] = 0,
    answering: bool = True,
) -> dict[str, Any]:
    """Release a model: push it to the Hub if `hub.push` says so, and let it answer behind the endpoint.

    Args:
        run: Which run to release; empty: align one first.
        settings: The parameters of a new run; of a run that there is, only `hub.*` counts. Empty: as in params.yaml.
        uncommitted: Include the working tree's uncommitted edits in a new run, and record them.
        stage_minutes: Minutes that a stage of a new run may take before it is ended; 0 for as long as it likes.
        approval_minutes: Minutes that a person has to approve; 0 to ask nobody.
        answering: Let it answer behind this machine's endpoint; else the release is held in `data/release` alone.
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
        shown = FinishedRun.read(folder).hashed()
        approve(shown, require_gates(shown), approval_minutes)
        digests = shown.digests
    with exclusive(RELEASE.with_name("release.lock"), "another release is under way here; wait until it has ended"):
        restore_previous()  # a release that was killed may have left its own
        checked = FinishedRun.read(folder).hashed(earlier=digests)  # hours may have passed since the approval
        require_gates(checked)
        on_hub = push(checked, hub) if hub.push else {}
        held = record_release(checked, on_hub)
        answer = deploy(held, on_hub) if answering else {"release": held.release, "address": str(RELEASE)}
        shutil.rmtree(BEFORE)
        return answer


def require_gates(run: FinishedRun) -> list[Gate]:
    """Return the gates of a run, all of them passed.

    Raises:
        InputError: A gate is missed.
    """
    gates = judge(run)
    require(gates, "not released, and nothing outside has changed")
    return gates


def deploy(run: FinishedRun, on_hub: Mapping[str, Any]) -> dict[str, Any]:
    """Put a release behind the endpoint; if the endpoint refuses it, restore the previous one in `data/release`."""
    try:
        address = serve(run)
    except InputError as error:
        restore_previous()
        left = f" (the Hub has the tag {run.release} all the same; delete it there)" if on_hub else ""
        raise type(error)(f"{error}{left}") from None
    except BaseException:
        restore_previous()
        raise
    create_link_artifact(address, link_text="the endpoint", key="endpoint", description=run.name)
    return ask(run, address)


@task(task_run_name="gates", cache_policy=NO_CACHE)
def judge(run: FinishedRun) -> list[Gate]:
    """Collect the gates of a run: those that it wrote itself, and those on its files as they are now."""
    tokenizer = tokenizer_gate(run.base_fingerprint, fingerprint(load_tokenizer(run.folder / MERGED)))
    found = [*run.gates, up_to_date(run), files_gate(run, OUTPUTS), tokenizer, *not_worse(run)]
    create_markdown_artifact("\n".join(gate_table(found)), key="gates", description=run.name)
    return found


def up_to_date(run: FinishedRun) -> Gate:
    """Are parameters, code and data what the model was made from? A release is published with them."""
    other = run.changed
    return Gate(
        name="up to date",
        passed=not other,
        figure=message("changed_since", keys=other) if other else message("nothing_changed_since"),
        bound=message("as_the_lock_records"),
        advice=message("put_back"),
    )


def not_worse(run: FinishedRun) -> list[Gate]:
    """Compare a run with what was released last, if that was asked the same prompts for the same stance.

    Returns:
        One verdict, passed if no fewer answers hold the stance than the lower end of the last one's 95% interval.
    """
    before, now = read_json(RELEASE / RECORD) if (RELEASE / RECORD).exists() else {}, measured(run)
    if now["stance"] is None or any(before.get(key) != now[key] for key in ("test_prompts", "stance")):
        return []
    last, share = before["adherence"], now["adherence"]["share"]
    return [
        Gate(
            name="not worse",
            passed=share >= last["low"],
            figure=message("share_and_stance", share=share, stance=now["stance"]),
            bound=message("at_least_last_release", low=last["low"], release=before["release"], share=last["share"]),
            advice=message("release_another_run"),
        )
    ]


def measured(run: FinishedRun) -> dict[str, Any]:
    """Return the values that a later release is compared by."""
    adherence = run.metrics.adherence
    return {
        "test_prompts": run.test_prompts,
        "stance": None if adherence.mixed else adherence.stance,
        "adherence": adherence.model_dump(),
    }


def approve(run: FinishedRun, gates: Sequence[Gate], minutes: float) -> None:
    """Wait until a person has looked at gates and answers and said yes.

    Raises:
        InputError: The person said no, or nobody said anything in time.
    """
    asked = Approval.with_initial_data(description=question(run, gates))
    try:
        answer = pause_flow_run(wait_for_input=asked, timeout=round(60 * minutes), poll_interval=2)
    except FlowPauseTimeout:
        raise InputError(f"nobody approved within {minutes:g} minutes; release {run.name} again") from None
    if not answer.approve:
        raise InputError(f"not approved: {answer.reason or 'no reason given'}; nothing outside has changed")
    get_run_logger().info("approved: %s", answer.reason or "no reason given")


def question(run: FinishedRun, gates: Sequence[Gate]) -> str:
    """Return what somebody sees who approves, in Markdown; in lists, since the UI's dialog cuts a wide table off."""
    lines = [f"Release `{run.release}`, the run **{run.name}**?", "", "**Gates**", ""]
    lines += [
        f"* {gate.name} {VERDICT[gate.passed]}: {sentence(gate.figure)}; expected {sentence(gate.bound)}"
        for gate in gates
    ]
    lines += ["", "**Answers**, before → after", ""]
    lines += [
        f"* {row.prompt} {row.response_from_original_model} → **{row.response_from_trained_model}**"
        for row in run.responses[:SHOWN]
    ]
    return "\n".join([*lines, ""])


@task(task_run_name="push", cache_policy=NO_CACHE, **PATIENCE)
def push(run: FinishedRun, hub: Hub) -> dict[str, Any]:
    """Publish the adapter and the merged model, and verify what the Hub holds then."""
    pushed = push_to_hub(run, hub)
    for part, repository in pushed.items():
        create_link_artifact(
            repository["url"], link_text=repository["repo_id"], key=f"hub-{part}", description=run.name
        )
    return pushed


@task(task_run_name="record", cache_policy=NO_CACHE)
def record_release(run: FinishedRun, on_hub: Mapping[str, Any]) -> FinishedRun:
    """Replace the release in `data/release`; the previous one stands by until the new one answers."""
    return record(run, on_hub, measured(run))


@task(task_run_name="serve", cache_policy=NO_CACHE)
def serve(run: FinishedRun) -> str:
    """Put the model behind the endpoint, beside the model that answers until then."""
    return serve_run(run.folder, get_run_logger().info, run.digests)


@task(task_run_name="smoke", cache_policy=NO_CACHE)
def ask(run: FinishedRun, address: str) -> dict[str, Any]:
    """Ask the public endpoint for its release, and one question."""
    answer = smoke(address, run.release, run.folder)
    get_run_logger().info("%s answers at %s: %s", answer["release"], address, answer["answer"])
    return answer


def main() -> None:
    """Release from the command line."""
    ask_for = argparse.ArgumentParser(description=__doc__)
    ask_for.add_argument("--run", help="a run that there is; without it one is aligned first")
    ask_for.add_argument("--uncommitted", action="store_true", help="with this tree's edits")
    asked = ask_for.parse_args()
    logging.getLogger("prefect").setLevel(logging.INFO)
    try:
        with some_server():
            said = release(run=asked.run, uncommitted=asked.uncommitted)
    except (InputError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, Unreachable | ConnectionError) else 1)
    print(f"released {said['release']}: {said['address']}")


if __name__ == "__main__":
    main()
