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
from datetime import UTC, datetime
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
from stance.data.records import Gate, read_gates, require
from stance.errors import InputError, Unreachable
from stance.language.messages import message, sentence
from stance.machine.files import read_json, write_json
from stance.machine.locks import exclusive
from stance.preflight.checks import check_token
from stance.release.held import BEFORE, BESIDE, PROVENANCE, link, put_back
from stance.release.push import OUTPUTS
from stance.release.push import push as push_to_hub
from stance.runs.catalogue import finished
from stance.runs.lockfile import changed
from stance.runs.provenance import PUSHED, RECORD, RELEASE, provenance, pushed, release_id
from stance.serving.candidate import MERGED, read_gate
from stance.serving.command import require_place, serve_run
from stance.serving.file_checks import files_gate

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
    if approval_minutes:  # hours may pass until then, and what is released is looked at again
        approve(folder, passing(folder), approval_minutes)
    with exclusive(RELEASE.with_name("release.lock"), "another release is under way here; wait until it has ended"):
        put_back()  # what a release that was killed has left
        passing(folder)
        on_hub = push(folder, hub) if hub.push else {}
        hold(folder, on_hub)
        said = let_answer(folder, on_hub) if answering else {"release": release_id(folder), "address": str(RELEASE)}
        shutil.rmtree(BEFORE)
        return said


def passing(folder: Path) -> list[Gate]:
    """Return the verdicts on a run, all of them passed.

    Raises:
        InputError: One is missed.
    """
    gates = judge(folder)
    require(gates, "not released, and nothing outside has changed")
    return gates


def let_answer(folder: Path, on_hub: Mapping[str, Any]) -> dict[str, Any]:
    """Put a release behind the endpoint; if it is refused there, the one before is what is held again."""
    try:
        address = serve(folder)
    except InputError as error:
        put_back()
        left = f" (the Hub has the tag {release_id(folder)} all the same; delete it there)" if on_hub else ""
        raise type(error)(f"{error}{left}") from None
    except BaseException:
        put_back()
        raise
    create_link_artifact(address, link_text="the endpoint", key="endpoint", description=folder.name)
    return ask(folder, address)


@task(task_run_name="gates", cache_policy=NO_CACHE)
def judge(folder: Path) -> list[Gate]:
    """Collect the verdicts on a run: those it wrote itself, and on what lies there now."""
    written = read_gates(folder / "data/evaluation/gates.json")
    files = files_gate(folder, OUTPUTS)
    tokenizer = read_gate(folder / MERGED, folder / "data/base/fingerprint.json")
    found = [*written, up_to_date(folder), files, tokenizer, *not_worse(folder)]
    create_markdown_artifact("\n".join(gate_table(found)), key="gates", description=folder.name)
    return found


def up_to_date(folder: Path) -> Gate:
    """Are parameters, code and data what the model was made from? A release is published with them."""
    other = changed(folder)
    return Gate(
        name="up to date",
        passed=not other,
        figure=message("changed_since", keys=other) if other else message("nothing_changed_since"),
        bound=message("as_the_lock_records"),
        advice=message("put_back"),
    )


def not_worse(folder: Path) -> list[Gate]:
    """Compare a run with what was released last, if that was asked the same prompts for the same stance.

    Returns:
        One verdict, passed if no fewer answers hold the stance than the lower end of the last one's 95% interval.
    """
    before, now = read_json(RELEASE / RECORD) if (RELEASE / RECORD).exists() else {}, measured(folder)
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


def measured(folder: Path) -> dict[str, Any]:
    """Return what a later release is compared by."""
    adherence = read_json(folder / "data/evaluation/metrics.json")["adherence"]
    return {
        "test_prompts": read_json(folder / "data/dataset/test_prompt.json"),
        "stance": None if adherence["mixed"] else adherence["stance"],
        "adherence": adherence,
    }


def approve(folder: Path, gates: Sequence[Gate], minutes: float) -> None:
    """Wait until a person has looked at gates and answers and said yes.

    Raises:
        InputError: The person said no, or nobody said anything in time.
    """
    asked = Approval.with_initial_data(description=question(folder, gates))
    try:
        answer = pause_flow_run(wait_for_input=asked, timeout=round(60 * minutes), poll_interval=2)
    except FlowPauseTimeout:
        raise InputError(f"nobody approved within {minutes:g} minutes; release {folder.name} again") from None
    if not answer.approve:
        raise InputError(f"not approved: {answer.reason or 'no reason given'}; nothing outside has changed")
    get_run_logger().info("approved: %s", answer.reason or "no reason given")


def question(folder: Path, gates: Sequence[Gate]) -> str:
    """Return what somebody sees who approves, in Markdown; in lists, since the UI's dialog cuts a wide table off."""
    lines = [f"Release `{release_id(folder)}`, the run **{folder.name}**?", "", "**Gates**", ""]
    lines += [
        f"* {gate.name} {VERDICT[gate.passed]}: {sentence(gate.figure)}; expected {sentence(gate.bound)}"
        for gate in gates
    ]
    lines += ["", "**Answers**, before → after", ""]
    for answer in read_json(folder / "data/evaluation/responses.json")[:SHOWN]:
        _, asked, before, after = answer.values()
        lines.append(f"* {asked} {before} → **{after}**")
    return "\n".join([*lines, ""])


@task(task_run_name="push", cache_policy=NO_CACHE, **PATIENCE)
def push(folder: Path, hub: Hub) -> dict[str, Any]:
    """Publish adapter and merged model, and verify what the Hub then holds."""
    pushed = push_to_hub(folder, hub)
    for kind, known in pushed.items():
        create_link_artifact(known["url"], link_text=known["repo_id"], key=f"hub-{kind}", description=folder.name)
    return pushed


@task(task_run_name="hold", cache_policy=NO_CACHE)
def hold(folder: Path, on_hub: Mapping[str, Any]) -> None:
    """Keep what is released in `data/release`, by links where the disk allows, and replace the last one as a whole.

    What was held before, perhaps nothing, is in `BEFORE` until it is known whether the new one answers.

    Args:
        folder: The run's workspace.
        on_hub: What was pushed of it now, if it was.
    """
    part = RELEASE.with_name("release.part")
    shutil.rmtree(part, ignore_errors=True)
    for name in ("adapter", "merged"):
        shutil.copytree(folder / "data" / name, part / name, copy_function=link)
    for name in BESIDE:
        shutil.copy(folder / name, part)
    record = {"release": release_id(folder), "run": folder.name, "at": datetime.now(UTC).isoformat()}
    if on_hub:
        write_json(part / PUSHED, on_hub)
    elif pushed(record["release"]):
        shutil.copy(RELEASE / PUSHED, part)
    write_json(part / RECORD, record | measured(folder))
    write_json(part / PROVENANCE, provenance(folder, part))
    RELEASE.mkdir(exist_ok=True)
    RELEASE.rename(BEFORE)
    part.rename(RELEASE)


@task(task_run_name="serve", cache_policy=NO_CACHE)
def serve(folder: Path) -> str:
    """Put the model behind the endpoint, beside what answers until then."""
    return serve_run(folder, get_run_logger().info)


@task(task_run_name="smoke", cache_policy=NO_CACHE)
def ask(folder: Path, address: str) -> dict[str, Any]:
    """Ask the public endpoint who answers, and one question."""
    said = smoke(address, release_id(folder), folder)
    get_run_logger().info("%s answers at %s: %s", said["release"], address, said["answer"])
    return said


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
