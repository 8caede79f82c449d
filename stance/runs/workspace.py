"""The workspace of a run: a private clone of this project at a recorded commit, which shares DVC's cache.

`create` makes a workspace in `.runs/NAME`, `save` keeps its results as a DVC experiment, `remove` deletes it. Outputs
are linked out of the cache, not copied. A workspace is a clone and not a git worktree, because all worktrees of a
repository share DVC's experiment refs, and runs that save at the same time would mix them up.
"""

import configparser
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import yaml
from dvc.repo import Repo

from stance.config.profiles import Overrides
from stance.errors import InputError, Unreachable
from stance.machine import processes
from stance.machine.files import read_yaml
from stance.machine.git import NOBODY, attempt, git
from stance.machine.supervisor import end_marked
from stance.runs.record import RECORD, Run, State, this_process

RUNS = Path(".runs")
NAME = re.compile(r"[A-Za-z0-9][\w-]*")


def create(
    name: str, overrides: Overrides, *, edits: bool, flow_run_id: str | None = None, commit: str | None = None
) -> Path:
    """Make the workspace of a run, with the outputs that its commit already has, and return its folder.

    Args:
        name: The name of the run; no other run may have it.
        overrides: The profile and the values that replace those in `params.yaml`.
        edits: Whether the run includes the uncommitted edits of the working tree.
        flow_run_id: The id of Prefect's flow run.
        commit: The commit to work at, which git fetches if this project lacks it; the project's HEAD if None.

    Raises:
        InputError: The name is taken or is not a file name, a setting is wrong, or the project has no such commit.
        Unreachable: The commit is not here, and the repository `origin` does not answer.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot name a run; use letters, digits, - and _, and start with a letter or digit")
    folder = RUNS.resolve() / name
    making = RUNS.resolve() / f".{name}.making"  # a folder without a record is ours only beside this
    if making.exists() and not (folder / RECORD).exists():  # its maker was killed before it could write one
        remove(name)
    if folder.exists() and not (folder / RECORD).exists():
        raise InputError(f"{folder} exists, and no run has made it; choose another name, or move the folder away")
    if folder.exists():
        raise InputError(
            f"there is a run {name} already; choose another name, or `python -m stance runs remove {name}` first"
        )
    head = obtain(commit) if commit else git(Path(), "rev-parse", "HEAD")
    state = snapshot(head) if edits else head
    git(Path(), "update-ref", f"refs/runs/{name}", state)  # keeps the commit from git's garbage collection
    folder.parent.mkdir(exist_ok=True)
    making.touch()
    try:
        git(Path(), "clone", "--quiet", "--no-checkout", str(Path.cwd()), str(folder))
        run = Run(name=name, commit=head, snapshot=state, created=datetime.now(UTC), state="starting")
        run = run.updated(folder, **this_process(), flow_run_id=flow_run_id)
        making.unlink()
        check_out(folder, name, head, state)
        share_cache(folder)
        set_params(folder / "params.yaml", overrides)
        run.updated(folder, state="running", profile=overrides.profile, overrides=dict(overrides.changes))
    except BaseException:
        remove(name)
        raise
    return folder


def obtain(commit: str) -> str:
    """Return the full name of a commit, after git has fetched it from `origin` if this project lacks it.

    Raises:
        InputError: Neither this project nor `origin` has the commit.
        Unreachable: `origin` does not answer.
    """
    if attempt(Path(), "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        ended = attempt(Path(), "fetch", "--quiet", "--no-write-fetch-head", "--no-auto-maintenance", "origin", commit)
        message = ended.stderr.decode(errors="replace").strip()
        if "not our ref" in message or "couldn't find remote ref" in message:
            raise InputError(f"commit {commit} is neither here nor in the repository origin; push it there first")
        if ended.returncode:
            raise Unreachable(f"commit {commit} could not be fetched from the repository origin: {message}")
    return git(Path(), "rev-parse", f"{commit}^{{commit}}")


def set_params(path: Path, overrides: Overrides) -> None:
    """Write the parameters of a run. A file that holds these values already stays, with its comments."""
    values = overrides.values(path)
    if values != read_yaml(path):
        path.write_text(yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False), encoding="utf-8")


def snapshot(head: str) -> str:
    """Return a commit of the working tree as it is, without ignored files. Index and tree stay as they are."""
    index = git(Path(), "rev-parse", "--path-format=absolute", "--git-path", "index")
    with TemporaryDirectory() as scratch:
        copy = Path(scratch) / "index"
        shutil.copyfile(index, copy)
        environment = {"GIT_INDEX_FILE": str(copy)}
        git(Path(), "add", "--all", **environment)
        tree = git(Path(), "write-tree", **environment)
    if tree == git(Path(), "rev-parse", f"{head}^{{tree}}"):
        return head
    return git(Path(), "commit-tree", tree, "-p", head, "-m", "uncommitted edits")


def edited(*paths: str) -> list[str]:
    """Return the files of the working tree, at these paths or below, that differ from the last commit."""
    entries = git(Path(), "status", "--porcelain", "-z", "--no-renames", "--", *paths).split("\0")
    return [entry.split(maxsplit=1)[1] for entry in entries if entry]


def check_out(folder: Path, name: str, head: str, commit: str) -> None:
    """Check out `head` in a clone of the project, with the changes from `head` to `commit` as uncommitted edits."""
    git(folder, "fetch", "--quiet", "origin", f"+refs/runs/{name}:refs/runs/{name}")
    git(folder, "checkout", "--quiet", "--detach", head)
    git(folder, "read-tree", "-u", "-m", head, commit)
    git(folder, "reset", "--quiet")
    git(folder, "add", "--all", "--intent-to-add")  # so that new files count as edits too


def share_cache(folder: Path) -> None:
    """Let the workspace use this project's DVC cache by links, and check out the outputs that are in it."""
    with Repo() as repo:
        cache = str(repo.config["cache"].get("dir") or repo.cache.default_local_cache_dir)
        # DVC's own file names a folder relative to the project; `repo.config` has its absolute path.
        remotes = [(f"'remote \"{name}\"'", "url", remote["url"]) for name, remote in repo.config["remote"].items()]
    config = configparser.RawConfigParser()
    config.read(Path(".dvc/config.local"))
    for section, key, value in (
        ("cache", "dir", cache),
        ("cache", "type", '"reflink,hardlink,copy"'),
        ("core", "site_cache_dir", str(folder / ".dvc/tmp/site")),
        *remotes,
    ):
        if not config.has_section(section):
            config.add_section(section)
        config.set(section, key, value)
    with (folder / ".dvc/config.local").open("w", encoding="utf-8") as file:
        config.write(file)
    with Repo(str(folder)) as repo:
        repo.checkout(force=True, allow_missing=True)


def save(run: Run, folder: Path) -> None:
    """Keep the finished stages of a run as a DVC experiment of this project, which `dvc exp show` lists."""
    name = run.name if run.state == "completed" else f"{run.name}-{run.state}"
    for stage, path in in_git(folder):
        if stage not in run.finished:  # the file is still that of the commit that the run started from
            path.unlink()
    finished = [] if run.state == "completed" else run.finished
    command = [sys.executable, "-m", "dvc", "exp", "save", *finished, "--force", "--name", name]
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**processes.environment(), **NOBODY},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if ended.returncode:
        raise RuntimeError(f"`dvc exp save` of {run.name} failed: {ended.stderr.strip()}")
    ref = f"refs/exps/{run.commit[:2]}/{run.commit[2:]}/{name}"
    git(Path(), "fetch", "--quiet", "--no-write-fetch-head", "--no-auto-maintenance", str(folder), f"+{ref}:{ref}")


def in_git(folder: Path) -> list[tuple[str, Path]]:
    """Return the metrics and plots of a workspace that git keeps and DVC's cache does not, each with its stage."""
    with Repo(str(folder)) as repo:
        outs = [(stage.name, out) for stage in repo.index.stages for out in stage.outs if not out.use_cache]
    return [(name, Path(out.fs_path)) for name, out in outs if Path(out.fs_path).is_file()]


def of_flow_run(name: str, flow_run_id: str) -> Path | None:
    """Return the workspace that an earlier try of a flow run made; None if there is none, or another run's."""
    folder = RUNS.resolve() / name
    return folder if (folder / RECORD).exists() and Run.read(folder).flow_run_id == flow_run_id else None


def clean_up(folder: Path) -> None:
    """End the processes of an earlier try, and remove the locks of DVC, which name processes by number."""
    end_marked(str(folder.resolve()))
    for lock in ("lock", "rwlock"):
        (folder / ".dvc/tmp" / lock).unlink(missing_ok=True)


def remove(name: str) -> None:
    """Remove a run's workspace and the refs that keep it alive."""
    shutil.rmtree(RUNS / name, ignore_errors=True)
    (RUNS / f".{name}.making").unlink(missing_ok=True)
    endings = ["", *(f"-{state}" for state in get_args(State))]
    patterns = [f"refs/runs/{name}", *(f"refs/exps/*/*/{name}{ending}" for ending in endings)]
    for ref in git(Path(), "for-each-ref", "--format=%(refname)", *patterns).split():
        git(Path(), "update-ref", "-d", ref)


def all_runs() -> list[tuple[Path, Run]]:
    """Return every workspace and its record, the oldest first."""
    folders = [path.parents[2] for path in RUNS.glob(f"*/{RECORD}")]
    return sorted(((folder, Run.read(folder)) for folder in folders), key=lambda item: item[1].created)
