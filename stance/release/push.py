"""A release on the Hugging Face Hub: the adapter and the merged model of a run, each in a repository of its own.

`python -m stance push [--run RUN] [--dry-run]`. A release is one commit with exactly the files of `bundle.py`, and a
tag that never moves. Every decision comes from a look at the Hub, never from what was done before: a push that was
killed, or whose answer was lost, is run again and finds its own work. Tokens (`HF_TOKEN` or `hf auth login`) are
huggingface_hub's own business; none passes through here. A dry run without a token, a name or a network lists the files
and says that the Hub was not asked.
"""

import logging
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelInfo,
    constants,
    get_session,
    get_token,
)
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils.tqdm import disable_progress_bars
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from stance.config import params, release
from stance.data.records import require
from stance.errors import InputError, Unreachable
from stance.models.hub import Entry, Listing, listed
from stance.models.hub_errors import PROBLEMS, PUSH_PATIENCE, cause, explained, passes, patiently, status_of, wait
from stance.release.bundle import CARD, Local, bundle, parts
from stance.release.card import Part
from stance.release.recomputation import recompute
from stance.runs.finished import FinishedRun
from stance.runs.provenance import PROVENANCE, RELEASE
from stance.runs.released import Pushed, write_pushed
from stance.runs.signature import SIGNATURE
from stance.runs.workspace import RUNS

logger = logging.getLogger(__name__)


DESCRIBING = (CARD, "params.yaml", PROVENANCE, SIGNATURE)
"""Written anew, by later code or for another `hub`, they make no other release: `dvc.lock` has all that counts."""
KEPT = ".gitattributes"
"""The Hub's own: which files git-lfs has."""
SILENCE = 120.0
"""Seconds without a byte from the Hub; a commit of many files keeps it busy for a while."""
STALE = (409, 412)
"""The repository has changed since we looked, or is about to."""
Verdict = Literal["new", "changed", "unchanged", "removed"]


@dataclass(frozen=True)
class Plan:
    """What a repository is to hold, and what it holds."""

    repo_id: str
    tag: str
    private: bool
    files: dict[str, Local]
    listing: Listing | None
    """The release, where the tag is there, else the newest commit; None for a repository that does not exist."""
    tagged: bool

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """What happens to each file."""
        there = self.listing.files if self.listing else {}
        sent: dict[str, Verdict] = {name: _verdict(file, there.get(name)) for name, file in self.files.items()}
        return sent | {name: "removed" for name in sorted(there.keys() - self.files.keys() - {KEPT})}


def push(run: FinishedRun, hub: release.Hub) -> dict[str, Pushed]:
    """Publish a finished run, unless it is published already, and return what the Hub holds.

    Both repositories are looked at before either is changed.

    Args:
        run: The run.
        hub: The names of the repositories, and whether they are private.

    Returns:
        Each repository with its commit and tag; a release keeps it in `push.json`.

    Raises:
        InputError: The run is not finished, the Hub refuses, or someone else pushed at the same time.
        Unreachable: The Hub does not answer, or is busy; the same may work later.
    """
    refuse_missed_gates(run)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings quote addresses that are signed
    if not sys.stderr.isatty():
        disable_progress_bars()
    return {part: _carry_out(plan) for part, plan in plans(run, hub).items()}


def refuse_missed_gates(run: FinishedRun) -> None:
    """Refuse a run that misses a bound.

    Raises:
        InputError: A gate is missed; names figure and bound.
    """
    require(run.gates, f"{run.name} is not released")


def require_token() -> None:
    """Refuse to go on without a token for the Hub."""
    if not get_token():
        raise InputError("there is no token for the Hub; log in with `hf auth login`, or set HF_TOKEN")


def plans(run: FinishedRun, hub: release.Hub) -> dict[Part, Plan]:
    """Return what a push would do.

    Raises:
        InputError: The run's files are not those that it made, the Hub refuses, or it has another release of this name.
        Unreachable: The Hub does not answer, or is busy.
    """
    require_token()
    run = run.again()
    repo_ids = {"adapter": hub.adapter_repo_id, "merged": hub.merged_repo_id}
    planned: dict[Part, Plan] = {}
    for part in parts(run):
        repo_id = repo_ids[part]
        if repo_id is None:
            raise InputError(f"hub.{part}_repo_id is null; name the repository, like someone/stance-{part}")
        planned[part] = _plan(repo_id, run.release, hub.private, bundle(run, hub, part))
    return planned


def _plan(repo_id: str, tag: str, private: bool, files: dict[str, Local]) -> Plan:
    with explained(repo_id, "push"):
        try:
            tags = {ref.name for ref in patiently(lambda: _api().list_repo_refs(repo_id)).tags}
        except RepositoryNotFoundError as error:
            if status_of(error) == 401:  # a token that is not accepted sees no repository either
                raise
            return Plan(repo_id, tag, private, files, None, tagged=False)
        info = _info(repo_id, tag if tag in tags else "main")
    _refuse_public(info, repo_id, private)
    plan = Plan(repo_id, tag, private, files, listed(repo_id, info), tag in tags)
    if plan.tagged:
        _refuse_another(plan)
    return plan


def _refuse_public(info: ModelInfo, repo_id: str, private: bool) -> None:
    if private and not info.private:
        raise InputError(
            f"{repo_id} is public and hub.private is true; make it private at {constants.ENDPOINT}/{repo_id}/settings, "
            "or set hub.private to false"
        )


def _refuse_another(plan: Plan) -> None:
    differ = [name for name, verdict in plan.verdicts.items() if verdict != "unchanged" and name not in DESCRIBING]
    if differ:
        raise InputError(
            f"{plan.listing} has the tag {plan.tag} with other files ({_some(differ)}), and a tag stays where it is; "
            f"look at {constants.ENDPOINT}/{plan.repo_id}/tree/{plan.tag}, and delete the tag if it is wrong"
        )


def _carry_out(plan: Plan) -> Pushed:
    with explained(plan.repo_id, "push"):
        if plan.tagged and plan.listing:
            logger.info("%s is there as %s", plan.listing, plan.tag)
            return _record(plan, plan.listing)
        release = _committed(plan, plan.listing or _created(plan))
        return _record(plan, _tagged(plan, release))


def _created(plan: Plan) -> Listing:
    patiently(lambda: _api().create_repo(plan.repo_id, private=plan.private, exist_ok=True))
    info = _info(plan.repo_id, "main")
    _refuse_public(info, plan.repo_id, plan.private)  # someone may have made it since
    return listed(plan.repo_id, info)


def _committed(plan: Plan, before: Listing) -> Listing:
    """Return the commit that holds the release; make it if `before`, the newest one, does not."""
    if _complete(plan, before):
        return before
    for pause in (*PUSH_PATIENCE.pauses, None):
        try:
            commit = _send(plan, before)
        except PROBLEMS as error:
            problem = cause(error)
            if not (passes(problem) or status_of(problem) in STALE):
                raise
            if arrived := _arrived(plan, before):
                return arrived
            if pause is None:
                raise
            wait(problem, pause)
        else:
            return _verified(plan, _listing(plan.repo_id, commit))
    raise AssertionError("the last pause is None")


def _send(plan: Plan, before: Listing) -> str:
    """Make the commit. With `parent_commit` nobody else's is undone, and a second one of the same cannot come of it."""
    there = before.files
    # Not upload_folder: from some number of files on it makes several commits.
    add = [_addition(name, file) for name, file in plan.files.items() if not file.is_what(there.get(name))]
    remove = [CommitOperationDelete(name) for name in sorted(there.keys() - plan.files.keys() - {KEPT})]
    logger.info("%s: sending %d of %d files, removing %d", plan.repo_id, len(add), len(plan.files), len(remove))
    message = f"Release {plan.tag}"
    made = _api().create_commit(plan.repo_id, [*add, *remove], commit_message=message, parent_commit=before.commit)
    return made.oid


def _addition(name: str, file: Local) -> CommitOperationAdd:
    """Return what the Hub's client is to send; with the SHA-256 that is known it does not read the file for one."""
    if file.digest and isinstance(file.content, Path) and not file.digest.still_holds(file.content):
        raise InputError(f"{file.content} was changed since it was checked; run the push again")
    addition = CommitOperationAdd(name, file.content)
    addition.upload_info.sha256 = bytes.fromhex(file.holds.sha256)
    return addition


def _arrived(plan: Plan, before: Listing) -> Listing | None:
    """Look whether a commit whose answer was lost is there all the same, or someone else's in its place."""
    now = _listing(plan.repo_id, "main")
    if _complete(plan, now):
        logger.info("%s holds the release, although the Hub did not say so", now)
        return now
    if now.commit != before.commit:
        raise InputError(
            f"another push to {plan.repo_id} came first (found commit {now.commit[:12]}, expected "
            f"{before.commit[:12]}); run it again if {plan.tag} is to be the newest release"
        )
    return None


def _verified(plan: Plan, listing: Listing) -> Listing:
    """Refuse a commit that is not what was sent."""
    wrong = [name for name, file in plan.files.items() if not file.is_what(listing.files.get(name))]
    more = sorted(listing.files.keys() - plan.files.keys() - {KEPT})
    if not wrong and not more:
        return listing
    name, others = (wrong or more)[0], len(wrong) + len(more) - 1
    entry, file = listing.files.get(name), plan.files.get(name)
    raise InputError(
        f"{listing} is not what was sent: {name} (found {_told(entry.held if entry else None)}; expected "
        f"{_told(file.held_like(entry) if file else None)}) and {others} others; run it again, which sends anew"
    )


def _tagged(plan: Plan, release: Listing) -> Listing:
    """Tag the release; return what the tag leads to, which another push of the same files may have set."""
    patiently(lambda: _api().create_tag(plan.repo_id, tag=plan.tag, revision=release.commit, exist_ok=True))
    found = _listing(plan.repo_id, plan.tag)
    if found.commit == release.commit:
        return found
    _refuse_another(Plan(plan.repo_id, plan.tag, plan.private, plan.files, found, tagged=True))
    return found


def _record(plan: Plan, listing: Listing) -> Pushed:
    held = {name: file for name, file in plan.files.items() if file.is_what(listing.files.get(name))}
    return Pushed(
        repo_id=plan.repo_id,
        url=f"{constants.ENDPOINT}/{plan.repo_id}/tree/{plan.tag}",
        commit=listing.commit,
        tag=plan.tag,
        files={name: file.holds for name, file in held.items()},
    )


def _complete(plan: Plan, listing: Listing) -> bool:
    names = plan.files.keys() | {KEPT}
    return listing.files.keys() <= names and all(f.is_what(listing.files.get(name)) for name, f in plan.files.items())


def _verdict(file: Local, entry: Entry | None) -> Verdict:
    if entry is None:
        return "new"
    return "unchanged" if file.is_what(entry) else "changed"


def _api() -> HfApi:
    get_session().timeout = SILENCE  # without one it waits for ever
    return HfApi()


def _info(repo_id: str, revision: str) -> ModelInfo:
    return patiently(lambda: _api().model_info(repo_id, revision=revision, files_metadata=True))


def _listing(repo_id: str, revision: str) -> Listing:
    return listed(repo_id, _info(repo_id, revision))


def _told(held: tuple[int, str] | None) -> str:
    return f"{held[0]} bytes, {held[1][:12]}" if held else "nothing"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def unasked(run: FinishedRun, hub: release.Hub) -> dict[Part, Plan]:
    """Return what a push would send to empty repositories, without a look at the Hub.

    A repository without a name is called by the parameter that names it.

    Raises:
        InputError: The run's files are not those that it made, or a file holds what looks like a secret.
    """
    run = run.again()
    planned: dict[Part, Plan] = {}
    for part in parts(run):
        name = (hub.adapter_repo_id if part == "adapter" else hub.merged_repo_id) or f"(hub.{part}_repo_id)"
        planned[part] = Plan(name, run.release, hub.private, bundle(run, hub, part), None, tagged=False)
    return planned


def dry_run(run: FinishedRun, hub: release.Hub) -> tuple[dict[Part, Plan], str]:
    """Return what a push would do, and why the Hub was not asked; the reason is empty if the Hub was asked.

    Raises:
        InputError: As in `plans`, if the Hub was asked.
    """
    missing = [f"hub.{part}_repo_id is null" for part in parts(run) if not getattr(hub, f"{part}_repo_id")]
    if not get_token():
        missing.insert(0, "there is no token")
    if missing:
        return unasked(run, hub), " and ".join(missing)
    try:
        return plans(run, hub), ""
    except Unreachable as error:
        return unasked(run, hub), str(error)


def table(found: Mapping[Part, Plan]) -> Table:
    """Return what a push would do, as people read it."""
    out = Table("repository", "file", "size", "what happens")
    out.columns[2].justify = "right"
    for plan in found.values():
        for name, verdict in plan.verdicts.items():
            file = plan.files.get(name)
            size = decimal(file.holds.size) if file else ""
            what = "unchanged" if plan.tagged else verdict  # a release stays as it is, its card too
            out.add_row(*map(Text, (plan.repo_id, name, size, what)))
        out.add_section()
    return out


def main() -> None:
    """Push a run: `python -m stance push [--run RUN] [--dry-run]`."""
    parser = ArgumentParser(description="Publish a finished run on the Hugging Face Hub.")
    parser.add_argument(
        "--run", type=Path, default=Path(), help="the name of a run in .runs, or its folder (default: this folder)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="list what would be sent, and change nothing; needs neither a token nor a network",
    )
    options = parser.parse_args()
    folder = options.run if options.run.exists() else RUNS / options.run
    hub, run = params.Params.load().hub, FinishedRun.read(folder)
    if options.dry_run:
        planned, reason = dry_run(run, hub)
        Console(markup=False, emoji=False).print(table(planned))
        if reason:
            print(f"the Hub was not asked, so every file is listed as new: {reason}")
        return
    require_token()  # before what takes minutes
    refuse_missed_gates(run)
    recompute(run)
    pushed = push(run, hub)
    write_pushed(pushed, RELEASE)
    for repository in pushed.values():
        print(f"{repository.tag} is at {repository.url}")
