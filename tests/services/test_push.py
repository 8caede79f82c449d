"""A push through the real huggingface_hub to a Hub on the loopback address, by xet and by git-lfs, with faults planted.

What is plain HTTP - repository, references, listing, card, commit, tag - goes by xet here, and by git-lfs in
tests/soak/test_push.py; what touches the storage goes by both.

Whatever goes wrong, the user reads one sentence, and running it again leaves exactly one release with the right hashes.
"""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from stance.machine.files import write_json
from stance.runs.provenance import release_id
from tests.builders.figures import figures, some
from tests.builders.finished_run import write_lock, write_run
from tests.doubles.hub import Hub
from tests.doubles.hub_faults import Fault
from tests.doubles.hub_jobs import Ended, Job, environment, jobs
from tests.doubles.hub_storage import XET_TOKEN
from tests.doubles.made_up import TOKEN

PUSH = "sys.argv[1:] = {arguments}; run(stance.release.push.main)"
UNMEASURED = "stance.release.push.recompute = lambda run: None"
"""The weights are made-up bytes, which no model gives again; tests/models/test_recomputation.py measures real ones."""
# Waits are cut short, and told, so that the tests need not wait.
PREPARE = f"""
import time, scipy.stats, stance.release.push
sleep = time.sleep
def short(seconds):
    print(f"waits {{seconds:g}} s", flush=True)
    sleep(min(seconds, 0.02))
time.sleep = short
{UNMEASURED}
"""
PROCESS = f"import stance.release.push; from stance.errors import run; {UNMEASURED}; run(stance.release.push.main)"
"""The push, as a process of its own that can be killed."""
OK, REFUSED, LATER = 0, 1, 75
ALWAYS = 99
ADAPTER, MERGED = "team/adapter", "team/merged"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def by_xet(hub_server: Hub, home: Path) -> Iterator[Job]:
    with jobs(environment(hub_server, home), PREPARE) as run:
        yield run


@pytest.fixture(scope="module")
def by_lfs(hub_server: Hub, home: Path) -> Iterator[Job]:
    with jobs(environment(hub_server, home) | {"HF_HUB_DISABLE_XET": "1"}, PREPARE) as run:
        yield run


@pytest.fixture(params=["xet", "lfs"])
def job(request: pytest.FixtureRequest) -> Job:
    return request.getfixturevalue(f"by_{request.param}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(finished: Path, tmp_path: Path, hub: Hub) -> Path:
    """A finished run, and a Hub that knows the token."""
    hub.writer(TOKEN)
    return Path(shutil.copytree(finished, tmp_path / "run"))


def push(job: Job, run: Path, *arguments: str, token: str = TOKEN) -> Ended:
    # hf_xet remembers what it has sent: each test has another Hub, and so another memory.
    return job(PUSH.format(arguments=list(arguments)), run, HF_TOKEN=token, HF_XET_CACHE=str(run.parent / "xet"))


def done(ended: Ended) -> Ended:
    assert (ended.code, ended.err) == (OK, ""), ended.out + ended.err
    return ended


def refused(ended: Ended, *words: str, code: int = REFUSED) -> None:
    """One sentence on standard error."""
    assert (ended.code, ended.err.count("\n")) == (code, 1), ended.err
    assert ended.err.startswith("error: ")
    assert all(word in ended.err for word in words), ended.err
    assert TOKEN not in ended.err + ended.out


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def released(hub: Hub, run: Path) -> None:
    """Each repository holds one release: one commit, one tag, the run's files; and it is written down as it is."""
    tag, recorded = release_id(run), json.loads((run / "data/release/push.json").read_text())
    for part, repo_id in (("adapter", ADAPTER), ("merged", MERGED)):
        repo = hub.repos[repo_id]
        assert repo.titles() == [f"Release {tag}", "by hand"]
        assert repo.tags == {tag: repo.refs["main"]}
        holds = {name: file.data for name, file in repo.head.items() if name != ".gitattributes"}
        assert set(holds) == expected_names(run, part)
        for path in (run / "data" / part).iterdir():
            assert holds[path.name] == path.read_bytes() or path.name == "adapter_config.json"
        assert recorded[part] == {
            "repo_id": repo_id,
            "url": f"{hub.endpoint}/{repo_id}/tree/{tag}",
            "commit": repo.refs["main"],
            "tag": tag,
            "files": {name: {"sha256": sha256(data), "size": len(data)} for name, data in holds.items()},
        }


def expected_names(run: Path, part: str) -> set[str]:
    beside = {"README.md", "params.yaml", "dvc.lock", "fingerprint.json", "responses.json", "gates.json"}
    beside |= {"model.sig", "provenance.json"}
    tokenizer = {"tokenizer.json", "chat_template.jinja"} if part == "adapter" else set()
    return beside | tokenizer | {path.name for path in (run / "data" / part).iterdir()}


def test_a_run_is_one_commit_and_one_tag_in_each_repository(job, run, hub):
    assert f"is at {hub.endpoint}/{ADAPTER}/tree/{release_id(run)}" in done(push(job, run)).out
    released(hub, run)
    assert len(hub.asked("POST", "/commit/")) == 2


def test_repositories_are_private_unless_said_otherwise(by_xet, run, hub):
    done(push(by_xet, run))
    assert [repo.private for repo in hub.repos.values()] == [True, True]
    hub.repos.clear()
    edit(run, "private: true", "private: false")
    done(push(by_xet, run))
    assert [repo.private for repo in hub.repos.values()] == [False, False]


def edit(run: Path, old: str, new: str) -> None:
    path = run / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_public_repository_does_not_get_a_private_release(by_xet, run, hub):
    hub.repo(MERGED, {})
    refused(push(by_xet, run), f"{MERGED} is public", f"{hub.endpoint}/{MERGED}/settings", "hub.private")
    assert ADAPTER not in hub.repos


def test_equal_files_make_no_commit_and_send_nothing(job, run, hub):
    done(push(job, run))
    first = (run / "data/release/push.json").read_bytes()
    hub.log.clear()
    done(push(job, run))
    assert {asked.method for asked in hub.log} == {"GET"}
    assert (run / "data/release/push.json").read_bytes() == first
    released(hub, run)


def test_only_what_changed_is_sent_and_what_is_left_over_goes(job, run, hub, tmp_path):
    done(push(job, run))
    other = write_run(tmp_path / "other", "def")
    (other / "data/merged/model-2-of-2.safetensors").rename(other / "data/merged/model.safetensors")
    shutil.copy(run / "data/merged/model-1-of-2.safetensors", other / "data/merged")
    write_lock(other)
    hub.log.clear()
    done(push(job, other))
    head = hub.repos[MERGED].head
    assert set(head) == expected_names(other, "merged") | {".gitattributes"}
    assert head["model.safetensors"].data == (other / "data/merged/model.safetensors").read_bytes()
    assert hub.repos[MERGED].titles() == [f"Release {release_id(other)}", f"Release {release_id(run)}", "by hand"]
    assert hub.repos[MERGED].tags.keys() == {release_id(run), release_id(other)}
    assert not hub.asked("PUT", sha256((run / "data/merged/model-1-of-2.safetensors").read_bytes()))


def test_the_older_of_two_releases_is_left_where_it_is(by_xet, run, hub, tmp_path):
    done(push(by_xet, run))
    other = write_run(tmp_path / "other", "def")
    done(push(by_xet, other))
    newest = hub.repos[MERGED].refs["main"]
    done(push(by_xet, run))
    assert hub.repos[MERGED].refs["main"] == newest
    recorded = json.loads((run / "data/release/push.json").read_text())
    assert recorded["merged"]["commit"] == hub.repos[MERGED].tags[release_id(run)]


def test_a_tag_is_never_moved(by_xet, run, hub):
    done(push(by_xet, run))
    tags = {repo_id: dict(repo.tags) for repo_id, repo in hub.repos.items()}
    for repo in hub.repos.values():
        repo.head["model-1-of-2.safetensors"] = repo.head[".gitattributes"]
    refused(
        push(by_xet, run),
        f"has the tag {release_id(run)} with other files (model-1-of-2.safetensors)",
        "delete the tag",
    )
    assert {repo_id: dict(repo.tags) for repo_id, repo in hub.repos.items()} == tags


def test_another_card_or_hub_block_is_no_other_release(by_xet, run, hub, git):
    done(push(by_xet, run))
    edit(run, "private: true", "private: false")
    git(run, "commit", "--quiet", "--allow-empty", "--message", "later")
    done(push(by_xet, run))
    assert len(hub.asked("POST", "/commit/")) == 2
    recorded = json.loads((run / "data/release/push.json").read_text())
    described = {"README.md", "params.yaml", "provenance.json", "model.sig"}
    assert not described & recorded["merged"]["files"].keys()


def test_a_dry_run_lists_every_file_and_changes_nothing(by_xet, run, hub):
    shown = done(push(by_xet, run, "--dry-run")).out
    assert all(name in shown for name in ("team/adapter", "model-1-of-2.safetensors", "300.0 kB", "new"))
    assert hub.repos == {}
    assert not (run / "data/release").exists()
    done(push(by_xet, run))
    hub.repos[MERGED].tags.clear()
    tree = hub.repos[MERGED].head
    hub.repos[MERGED].commit({name: file.data for name, file in tree.items()} | {"dvc.lock": b"x", "old.bin": b"x"})
    hub.log.clear()
    shown = done(push(by_xet, run, "--dry-run")).out
    rows = {line.split("│")[2].strip(): line.split("│")[4].strip() for line in shown.splitlines() if MERGED in line}
    assert (rows["dvc.lock"], rows["old.bin"], rows["config.json"]) == ("changed", "removed", "unchanged")
    assert {asked.method for asked in hub.log} == {"GET"}


def busy(*, acts: bool = False, times: int = 1) -> list[Fault]:
    return [Fault("status", 503, acts=acts)] * times


def dropped(*, acts: bool = False, times: int = 1) -> list[Fault]:
    return [Fault("drop", acts=acts)] * times


EITHER = {
    "repository busy": ("/repos/create", busy()),
    "repository made, answer lost": ("/repos/create", busy(acts=True)),
    "repository made, connection lost": ("/repos/create", dropped(acts=True)),
    "references busy": ("/refs", busy()),
    "references dropped": ("/refs", dropped()),
    "listing busy": ("/revision/", busy()),
    "listing dropped": ("/revision/", dropped()),
    "card busy": ("/validate-yaml", busy()),
    "card dropped": ("/validate-yaml", dropped()),
    "preupload busy": ("/preupload/", busy(times=2)),
    "commit busy": ("/commit/", busy()),
    "commit dropped": ("/commit/", dropped()),
    "commit made, answer lost": ("/commit/", busy(acts=True)),
    "commit made, connection lost": ("/commit/", dropped(acts=True)),
    "commit in conflict for a moment": ("/commit/", [Fault("status", 412)]),
    "commits limited": ("/commit/", [Fault("status", 429, headers={"Retry-After": "2"})]),
    "tag busy": ("/tag/", busy()),
    "tag dropped": ("/tag/", dropped()),
    "tag made, answer lost": ("/tag/", busy(acts=True)),
    "tag made, connection lost": ("/tag/", dropped(acts=True)),
}
BY_XET = {
    "xet token busy": ("/xet-write-token/", busy()),
    "xet token dropped": ("/xet-write-token/", dropped()),
    "xorb busy": ("/v1/xorbs/", busy()),
    "xorb dropped": ("/v1/xorbs/", dropped()),
    "xorb kept, answer lost": ("/v1/xorbs/", dropped(acts=True)),
    "shard failed": ("/v1/shards", [Fault("status", 500)]),
    "shard kept, answer lost": ("/v1/shards", dropped(acts=True)),
}
BY_LFS = {
    "batch busy": ("/objects/batch", busy()),
    "batch dropped": ("/objects/batch", dropped()),
    "put busy": ("/storage/", busy()),
    "put dropped": ("/storage/", dropped()),
    "put done, answer lost": ("/storage/", dropped(acts=True)),
    "verify busy": ("/objects/verify", busy()),
    "verify dropped": ("/objects/verify", dropped()),
}


def passes_by_itself(planted, job, run, hub):
    path, faults = planted
    hub.plant(path, *faults)
    done(push(job, run))
    assert not any(hub.faults.values())
    released(hub, run)


def by_transport(cases: Iterable[str], both: str = "preupload") -> list[Any]:
    """Return cases with a way each: those of `both` by xet and by git-lfs, which part there, all others by xet."""
    return [
        pytest.param(case, way, id=f"{case}-{way}")
        for case in cases
        for way in (("xet", "lfs") if both in case else ("xet",))
    ]


@pytest.fixture
def job_by(request: pytest.FixtureRequest) -> Callable[[str], Job]:
    return lambda way: request.getfixturevalue(f"by_{way}")


@pytest.mark.parametrize(("fault", "way"), by_transport(EITHER))
def test_what_passes_is_waited_out_and_nothing_is_done_twice(fault, way, job_by, run, hub):
    passes_by_itself(EITHER[fault], job_by(way), run, hub)


@pytest.mark.parametrize("fault", BY_XET)
def test_a_xet_storage_that_fails_once_is_asked_again(fault, by_xet, run, hub):
    passes_by_itself(BY_XET[fault], by_xet, run, hub)


@pytest.mark.parametrize("fault", BY_LFS)
def test_an_lfs_storage_that_fails_once_is_asked_again(fault, by_lfs, run, hub):
    passes_by_itself(BY_LFS[fault], by_lfs, run, hub)


@pytest.mark.parametrize("kind", ["status", "drop"])
def test_a_commit_whose_answer_was_lost_is_recognised_and_not_repeated(kind, job, run, hub):
    hub.repo(MERGED, {"old.bin": b"of an older release"}, private=True)
    hub.plant(f"{MERGED}/commit/", Fault(kind, acts=True))
    out = done(push(job, run)).out
    assert (
        f"{MERGED} at {hub.repos[MERGED].refs['main'][:12]} holds the release, although the Hub did not say so" in out
    )
    released(hub, run)
    assert len(hub.asked("POST", f"{MERGED}/preupload/")) == len(hub.asked("POST", f"{MERGED}/commit/")) == 1


def test_the_hub_says_how_long_to_wait(job, run, hub):
    hub.plant("/commit/", Fault("status", 429, headers={"Retry-After": "7"}))
    assert "waits 7 s" in done(push(job, run)).out


def test_a_spent_limit_says_when_it_is_renewed(by_xet, run, hub):
    hub.plant("/commit/", Fault("status", 429, headers={"RateLimit": '"api";r=0;t=9'}))
    assert "waits 9 s" in done(push(by_xet, run)).out


@pytest.mark.parametrize("header", [{"Retry-After": "3600"}, {"RateLimit": '"api";r=0;t=3600'}])
def test_an_hour_is_not_waited_for(header, job, run, hub):
    hub.plant("/commit/", Fault("status", 429, headers=header))
    refused(push(job, run), "answered 429", "run it again later", code=LATER)
    done(push(job, run))
    released(hub, run)


STEPS = {
    "repository": "/repos/create",
    "references": "/refs",
    "listing": "/revision/",
    "card": "/validate-yaml",
    "preupload": "/preupload/",
    "commit": "/commit/",
    "tag": "/tag/",
}


REFUSING = sorted(STEPS.keys() - {"card"})  # huggingface_hub reads no refusal there


def stays(path: str, fault: Fault, job: Job, run: Path, hub: Hub, *words: str, code: int) -> None:
    """A fault that stays is one sentence, and once it is gone the same command completes."""
    hub.plant(path, *[fault] * ALWAYS)
    refused(push(job, run), *words, code=code)
    hub.faults.clear()
    done(push(job, run))
    released(hub, run)


@pytest.mark.parametrize(("step", "way"), by_transport(STEPS))
@pytest.mark.parametrize("acts", [False, True], ids=["before", "after"])
def test_a_hub_that_stays_busy_is_one_sentence_and_the_next_run_completes(step, way, acts, job_by, run, hub):
    stays_busy(step, acts, job_by(way), run, hub)


def stays_busy(step: str, acts: bool, job: Job, run: Path, hub: Hub) -> None:
    fault = Fault("status", 503, acts=acts)
    if step == "commit" and acts:  # the look that follows finds it
        hub.plant(STEPS[step], *[fault] * ALWAYS)
        done(push(job, run))
        released(hub, run)
        return
    stays(STEPS[step], fault, job, run, hub, code=LATER)


@pytest.mark.parametrize(("step", "way"), by_transport(STEPS))
def test_a_hub_that_hangs_up_is_one_sentence_and_the_next_run_completes(step, way, job_by, run, hub):
    hangs_up(step, job_by(way), run, hub)


def hangs_up(step: str, job: Job, run: Path, hub: Hub) -> None:
    stays(STEPS[step], Fault("drop"), job, run, hub, "cannot be reached", "check the network", code=LATER)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("step", "way"), by_transport(REFUSING))
def test_a_refusal_is_one_sentence_at_once_and_the_next_run_completes(step, way, status, job_by, run, hub):
    refuses(step, status, job_by(way), run, hub)


def refuses(step: str, status: int, job: Job, run: Path, hub: Hub) -> None:
    word = {401: "does not accept your token", 403: "may not write"}[status]
    stays(STEPS[step], Fault("status", status), job, run, hub, word, code=REFUSED)


@pytest.mark.parametrize("path", ["/xet-write-token/", "/v1/xorbs/", "/v1/shards"])
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault("status", 503), LATER),
        (Fault("drop"), LATER),
        (Fault("status", 401), REFUSED),
        (Fault("status", 403), REFUSED),
        (Fault("status", 404), REFUSED),
    ],
    ids=["busy", "dropped", "401", "403", "404"],
)
def test_a_xet_storage_that_stays_so_is_one_sentence(path, fault, code, by_xet, run, hub):
    stays(path, fault, by_xet, run, hub, code=code)


def test_an_lfs_object_that_arrived_unverified_is_not_sent_again(by_lfs, run, hub):
    """The next attempt asks first what is there."""
    hub.plant("/objects/verify", *[Fault("status", 503)] * ALWAYS)
    done(push(by_lfs, run))
    released(hub, run)
    sent = [asked.path for asked in hub.asked("PUT", "/storage/")]
    assert len(sent) == len(set(sent)) == 3


@pytest.mark.parametrize("path", ["/objects/batch", "/storage/"])
@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault("status", 503), LATER), (Fault("drop"), LATER), (Fault("status", 403), REFUSED)],
    ids=["busy", "dropped", "403"],
)
def test_an_lfs_storage_that_stays_so_is_one_sentence(path, fault, code, by_lfs, run, hub):
    stays(path, fault, by_lfs, run, hub, code=code)


@pytest.fixture
def start(hub: Hub, home: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start pushes that go on beside the test, and end those that are left."""
    started: list[subprocess.Popen[str]] = []

    def begin(run: Path, xet: str = "xet", **variables: str) -> "subprocess.Popen[str]":
        more = {
            "HF_TOKEN": TOKEN,
            "HF_XET_CACHE": str(run.parent / "xet"),
            "HF_HUB_DISABLE_XET": str(int(xet == "lfs")),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", PROCESS],
                cwd=run,
                env=environment(hub, home) | more | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def until(what: Callable[[], object]) -> None:
    ends = time.monotonic() + 30
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.02)


KILLED = {
    "preupload": ("/preupload/", False),
    "storage": ("", False),
    "storage, after": ("", True),
    "commit": (f"{MERGED}/commit/", False),
    "commit, after": (f"{MERGED}/commit/", True),
    "tag": (f"{MERGED}/tag/", False),
    "tag, after": (f"{MERGED}/tag/", True),
}


@pytest.mark.parametrize(("moment", "way"), by_transport(KILLED, "storage"))
def test_a_push_that_is_killed_is_completed_by_the_next(way, moment, start, run, hub, job_by):
    is_killed(way, moment, start, run, hub, job_by(way))


def is_killed(way: str, moment: str, start: Callable[..., "subprocess.Popen[str]"], run: Path, hub: Hub, job: Job):
    path, acts = KILLED[moment]
    path = path or {"xet": "/v1/xorbs/", "lfs": "/storage/"}[way]
    hub.plant(path, Fault("hang", acts=acts))
    killed = start(run, way)
    until(lambda: [asked for asked in hub.log if path in asked.path and asked.status == 0])
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = sent(hub)
    done(push(job, run))
    released(hub, run)
    if moment.startswith(("commit", "tag")):
        assert sent(hub) == before, "large files that have arrived are not sent again"
    assert len(hub.asked("POST", f"{MERGED}/commit/")) == 1 + (moment == "commit")


def sent(hub: Hub) -> list[str]:
    return [asked.path for asked in hub.log if asked.path.startswith(("/storage/", "/v1/xorbs/"))]


def test_of_two_releases_at_once_one_wins_and_the_other_is_told(by_xet, start, run, hub, tmp_path):
    other = write_run(tmp_path / "other", "def")
    hub.plant(f"{ADAPTER}/commit/", Fault("slow", seconds=3))
    slower = start(other)
    until(lambda: hub.asked("POST", f"{ADAPTER}/preupload/"))
    time.sleep(0.5)
    done(push(by_xet, run))
    released(hub, run)
    _, err = slower.communicate(timeout=30)
    refused(Ended(slower.returncode, "", err, 0, other), f"another push to {ADAPTER} came first", "run it again")
    released(hub, run)
    done(push(by_xet, other))
    assert hub.repos[MERGED].tags == {release_id(run): ANY, release_id(other): hub.repos[MERGED].refs["main"]}


def test_the_same_release_pushed_many_times_at_once_is_one(start, run, hub, tmp_path):
    many_at_once("xet", start, run, hub, tmp_path)


def many_at_once(way: str, start: Callable[..., "subprocess.Popen[str]"], run: Path, hub: Hub, tmp_path: Path) -> None:
    runs = [Path(shutil.copytree(run, tmp_path / str(number) / "run")) for number in range(4)]
    for process in [start(folder, way) for folder in runs]:
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    for folder in runs:
        released(hub, folder)


@pytest.mark.parametrize("acts", [False, True], ids=["before", "after"])
def test_a_hub_that_is_silent_is_not_waited_for(acts, job, run, hub):
    hub.plant(f"{MERGED}/commit/", Fault("hang", acts=acts))
    done(
        job(
            "stance.release.push.SILENCE = 0.5; " + PUSH.format(arguments=[]),
            run,
            HF_TOKEN=TOKEN,
            HF_XET_CACHE=str(run / "xet"),
        )
    )
    released(hub, run)


@pytest.mark.parametrize("name", ["model-1-of-2.safetensors", "model-2-of-2.safetensors"])
def test_a_file_that_the_hub_lists_otherwise_is_found_and_sent_anew(name, job, run, hub):
    hub.spoiled.add(name)
    size = (run / "data/merged" / name).stat().st_size
    refused(push(job, run), f"is not what was sent: {name} (found {size - 1} bytes", f"expected {size} bytes")
    assert hub.repos[MERGED].tags == {}
    assert not (run / "data/release/push.json").exists()
    hub.spoiled.clear()
    done(push(job, run))
    repo = hub.repos[MERGED]
    assert repo.tags == {release_id(run): repo.refs["main"]}
    assert repo.head[name].data == (run / "data/merged" / name).read_bytes()


def test_a_push_without_a_token_is_refused_and_the_hub_not_asked(by_xet, run, hub):
    refused(push(by_xet, run, token=""), "there is no token for the Hub", "`hf auth login`", "HF_TOKEN")
    assert hub.log == []


@pytest.mark.parametrize("token", ["hf_unknown", "hf_unknown的"])
def test_an_unknown_token_is_refused_and_not_shown(token, by_xet, run, hub):
    ended = push(by_xet, run, token=token)
    refused(ended, "does not accept your token", "HF_TOKEN")
    assert "hf_unknown" not in ended.out + ended.err
    assert hub.repos == {}


def test_a_push_without_the_network_is_refused(start, run, hub):
    process = start(run, HF_HUB_OFFLINE="1")
    _, err = process.communicate(timeout=30)
    refused(Ended(process.returncode, "", err, 0, run), "HF_HUB_OFFLINE is set; unset it to push")


def test_a_token_that_only_reads_is_refused(by_xet, run, hub):
    hub.account(TOKEN, {"type": "access_token", "accessToken": {"displayName": "test", "role": "read"}})
    refused(push(by_xet, run), f"may not write {ADAPTER}", f"{hub.endpoint}/settings/tokens")
    assert hub.repos == {}


def test_the_token_is_in_no_output_file_or_log_and_does_not_follow_to_the_storage(job, run, hub, home):
    hub.plant("/preupload/", Fault("status", 503), Fault("drop"))
    hub.plant("/storage/", Fault("status", 503))
    hub.plant("/v1/xorbs/", Fault("status", 503))
    hub.plant(f"{MERGED}/commit/", Fault("status", 503), Fault("drop"))
    ended = done(push(job, run))
    assert not any(word in ended.out for word in (TOKEN, XET_TOKEN, "signature"))
    for path in (path for folder in (run.parent, home) for path in folder.rglob("*") if path.is_file()):
        assert TOKEN.encode() not in path.read_bytes(), path
    heard = {asked.authorization for asked in hub.log if asked.host.startswith("localhost")}
    assert heard <= {None, f"Bearer {XET_TOKEN}"}
    assert {asked.authorization for asked in hub.log if "/commit/" in asked.path} == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("name", ["merged/model-2-of-2.safetensors", "adapter/new.json", "evaluation/responses.json"])
def test_a_file_that_the_lock_does_not_name_is_refused_and_the_hub_not_asked(name, by_xet, run, hub):
    """As a shard of an older run would be."""
    with (run / "data" / name).open("ab") as file:
        file.write(b"\n")
    output = f"data/{name}" if name.endswith("responses.json") else f"data/{name.split('/')[0]}"
    refused(push(by_xet, run), f"{output} in . differ from what dvc.lock records", "make repro", "dvc checkout")
    assert hub.log == []


def test_a_run_that_misses_a_gate_is_refused_with_figure_and_bound(by_xet, run, hub):
    write_json(
        run / "data/evaluation/metrics.json", figures(adherence={"stance": "support", "mixed": False, **some(1, 2)})
    )
    write_lock(run)
    refused(push(by_xet, run), "is not released: adherence: found 50% support", "expected at least 80%")
    assert hub.log == []


@pytest.mark.parametrize(
    "secret",
    [
        "https://me:hunter2@git.example/data",
        "https://hunter2@git.example/data",
        "ssh://me:hunter2@git.example/data",
        f"https://git.example/?t=hf_{'x' * 34}",
    ],
)
def test_a_password_in_the_parameters_is_not_published_and_not_shown(secret, by_xet, run, hub):
    with (run / "params.yaml").open("a") as file:
        file.write(f"# {secret}\n")
    ended = push(by_xet, run)
    refused(ended, "of params.yaml holds what looks like a password or a token", "would be published")
    assert "hunter2" not in ended.err
    assert hub.log == []


@pytest.mark.parametrize("missing", ["data/merged", "data/adapter", "data/evaluation/gates.json", "dvc.lock"])
def test_a_run_that_is_not_finished_is_refused_and_the_hub_not_asked(missing, by_xet, run, hub):
    path = run / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(push(by_xet, run), missing, "expected a finished run: `make repro` first")
    assert hub.log == []


def test_a_push_without_names_is_refused(by_xet, run, hub):
    edit(run, "push: true", "push: false")
    edit(run, f"merged_repo_id: {MERGED}", "merged_repo_id: null")
    refused(push(by_xet, run), "hub.merged_repo_id is null; name the repository")


def test_the_run_of_another_folder_is_pushed_and_recorded_here(by_xet, run, hub, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(run / "params.yaml", here)
    done(by_xet(PUSH.format(arguments=["--run", str(run)]), here, HF_TOKEN=TOKEN, HF_XET_CACHE=str(tmp_path / "xet")))
    (here / "data").rename(run / "recorded")
    shutil.copytree(run / "recorded/release", run / "data/release", dirs_exist_ok=True)
    released(hub, run)


def test_the_adapter_names_the_base_as_others_find_it(by_xet, run, hub):
    done(push(by_xet, run))
    config = json.loads(hub.repos[ADAPTER].head["adapter_config.json"].data)
    assert config == {"base_model_name_or_path": "team/base", "r": 8, "revision": "1" * 40}
