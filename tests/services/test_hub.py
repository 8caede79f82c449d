"""The `base` stage and the real huggingface_hub against a Hub on the loopback address."""

import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load, save

from tests.doubles.hub import Hub
from tests.doubles.hub_faults import Asked, Fault
from tests.doubles.hub_jobs import Ended, Job, environment, jobs
from tests.doubles.made_up import TOKEN

ROOT = Path(__file__).parents[2]
STAGE = "import sys; sys.argv[1:] = ['data/dataset', 'data/base']; from tasks.base import main; run(main)"
LOCATE = "from stance.models.base import locate; run(lambda: print(locate(Path('data/base'))))"

# What the stage imports.
PREPARE = """
import tasks.base
from stance.data.chat import fingerprint, load_tokenizer
fingerprint(load_tokenizer(Path(sys.argv[1])))
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HF_HOME of all jobs; the tests keep apart by the names of their repositories."""
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="session")
def job(hub_server: Hub, cache: Path, tiny_model: Path) -> Iterator[Job]:
    with jobs(environment(hub_server, cache) | {"HF_HUB_DISABLE_XET": "1"}, PREPARE, str(tiny_model)) as run:
        yield run


def record(ended: Ended) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((ended.folder / "data/base/base.json").read_text(encoding="utf-8"))
    return answer


def workspace(folder: Path, repo_id: str, revision: str = "main") -> Path:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["base"] = {"source": "hub", "repo_id": repo_id, "revision": revision}
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def files(tiny_model: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tiny_model.iterdir()}


def fetched(log: list[Asked]) -> set[str]:
    """The files of which any byte was asked for by name; large ones also ask the storage."""
    return {asked.path.split("/", 5)[-1] for asked in log if "/resolve/" in asked.path}


def from_storage(log: list[Asked]) -> list[Asked]:
    return [asked for asked in log if asked.path.startswith("/storage/")]


@dataclass
class Taken:
    """A stage that ended well on a repository with more in it than is wanted."""

    ended: Ended
    log: list[Asked]
    commit: str
    wanted: dict[str, bytes]


@pytest.fixture(scope="module")
def taken(hub_server: Hub, job: Job, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Taken:
    hub_server.clear()
    weights = load(files["model.safetensors"])
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    place = {weight: names[number % 2] for number, weight in enumerate(weights)}
    shards = {
        name: save({weight: weights[weight] for weight, held_by in place.items() if held_by == name}, {"format": "pt"})
        for name in names
    }
    index = {"metadata": {}, "weight_map": place}
    wanted = {name: data for name, data in files.items() if name != "model.safetensors"} | shards
    wanted["model.safetensors.index.json"] = json.dumps(index).encode()
    unwanted = (
        "pytorch_model.bin",
        "consolidated.safetensors",
        "modeling_own.py",
        "onnx/model.json",
        "README.md",
    )
    repo = hub_server.repo("team/sharded", wanted | dict.fromkeys(unwanted, b"unwanted"))
    ended = job(STAGE, workspace(tmp_path_factory.mktemp("taken"), "team/sharded"))
    assert ended.code == 0, ended.err
    return Taken(ended, hub_server.log.copy(), repo.refs["main"], wanted)


def test_revision_main_is_recorded_as_a_commit(taken):
    assert record(taken.ended)["source"] == "hub"
    assert record(taken.ended)["repo_id"] == "team/sharded"
    assert record(taken.ended)["revision"] == taken.commit


def test_every_file_is_recorded_with_the_hash_of_what_was_served(taken):
    assert record(taken.ended)["files"] == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in taken.wanted.items()
    }


def test_only_configuration_tokenizer_and_the_indexed_safetensors_are_fetched(taken):
    assert fetched(taken.log) == set(taken.wanted)


def test_nothing_large_is_written_for_dvc_to_hash(taken):
    written = [path for path in (taken.ended.folder / "data/base").rglob("*") if path.is_file()]
    assert sorted(path.name for path in written) == ["base.json", "fingerprint.json"]
    assert sum(path.stat().st_size for path in written) < 1_000_000


def test_a_model_in_the_cache_is_located_without_a_request(taken, hub, job, cache):
    ended = job(LOCATE, taken.ended.folder)
    folder = Path(ended.out.strip())
    assert hub.log == []
    assert folder.is_relative_to(cache)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == taken.wanted


@pytest.mark.parametrize("kind", ["tag", "commit"])
def test_a_tag_or_commit_is_taken_although_main_has_moved_on(kind, hub, job, files, tmp_path):
    repo = hub.repo(f"team/old-{kind}", files)
    old = repo.refs["v1"] = repo.refs["main"]
    repo.commit(files | {"model.safetensors": b"newer"})
    ended = job(STAGE, workspace(tmp_path, repo.repo_id, "v1" if kind == "tag" else old))
    assert record(ended)["revision"] == old
    assert record(ended)["files"]["model.safetensors"]["size"] == len(files["model.safetensors"])


def test_a_cut_transfer_resumes_where_it_was_cut(hub, job, files, tmp_path):
    noise = torch.frombuffer(bytearray(random.Random(0).randbytes(12 * 2**20)), dtype=torch.uint8)
    weights = save(load(files["model.safetensors"]) | {"noise": noise}, {"format": "pt"})
    hub.repo("team/cut", files | {"model.safetensors": weights})
    hub.plant(hashlib.sha256(weights).hexdigest(), Fault("cut", after=11 * 2**20))
    ended = job(STAGE, workspace(tmp_path, "team/cut"))
    # huggingface_hub writes pieces of 10 MiB; the eleventh MiB was lost with the connection.
    assert [asked.range for asked in from_storage(hub.log)] == [None, f"bytes={10 * 2**20}-"]
    assert record(ended)["files"]["model.safetensors"]["sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("where", ["revision/main", "storage"])
def test_a_hub_that_is_busy_once_is_asked_again(where, hub, job, files, tmp_path):
    hub.repo(f"team/busy-{where[0]}", files)
    stored = hashlib.sha256(files["model.safetensors"]).hexdigest()
    hub.plant(stored if where == "storage" else where, Fault("status", 503))
    ended = job(STAGE, workspace(tmp_path, f"team/busy-{where[0]}"))
    assert ended.code == 0, ended.err
    assert 503 in {asked.status for asked in hub.log}


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_refused_by_name_and_fetched_anew_next_time(name, hub, job, files, tmp_path):
    repo = hub.repo(f"team/damaged-{name[0]}", files)
    content = repo.commits[repo.refs["main"]][name]
    content.served = bytes([files[name][0] ^ 1]) + files[name][1:]
    refused = job(STAGE, workspace(tmp_path, repo.repo_id))
    assert refused.code == 1
    assert refused.err.startswith(f"error: {name} of {repo.repo_id} at ")
    assert not (tmp_path / "data/base/base.json").exists()

    content.served = None
    assert record(job(STAGE, tmp_path))["files"][name]["sha256"] == hashlib.sha256(files[name]).hexdigest()


def test_the_token_reaches_the_hub_and_not_its_storage(hub, job, files, tmp_path):
    hub.readers.add(TOKEN)
    hub.repo("team/private", files, private=True)
    ended = job(STAGE, workspace(tmp_path, "team/private"), HF_TOKEN=TOKEN)
    assert ended.code == 0, ended.err
    sent = {(asked.host.split(":")[0], asked.authorization) for asked in hub.log}
    assert sent == {("127.0.0.1", f"Bearer {TOKEN}"), ("localhost", None)}
    written = [path.read_text() for path in (tmp_path / "data/base").iterdir()]
    assert not any(TOKEN in text for text in [ended.out, ended.err, *written])


def test_what_the_cache_has_lost_is_fetched_again_at_the_recorded_commit(hub, job, files, tmp_path):
    repo = hub.repo("team/lost", files)
    assert job(STAGE, workspace(tmp_path, "team/lost")).code == 0
    folder = Path(job(LOCATE, tmp_path).out.strip())
    (folder / "config.json").unlink()
    (folder / "tokenizer.json").resolve().unlink()
    (folder / "model.safetensors").resolve().write_bytes(b"cut short")
    repo.commit(files | {"model.safetensors": b"newer"})
    again = job(LOCATE, tmp_path)
    assert again.code == 0, again.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_lost_model_that_the_hub_no_longer_has_is_named(hub, job, files, tmp_path):
    hub.repo("team/gone", files)
    assert job(STAGE, workspace(tmp_path, "team/gone")).code == 0
    (Path(job(LOCATE, tmp_path).out.strip()) / "model.safetensors").unlink()
    hub.clear()
    assert refused(job(LOCATE, tmp_path), "shows no model team/gone")


def refused(ended: Ended, *words: str, code: int = 1) -> bool:
    """One sentence on standard error, an exit code, soon; what is not so fails here, where it can be read."""
    assert ended.code == code
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert all(word in ended.err for word in words), ended.err
    assert ended.seconds < 10
    return True


def test_a_repository_that_does_not_exist_is_refused(hub, job, tmp_path):
    ended = job(STAGE, workspace(tmp_path, "team/none"))
    assert refused(ended, f"{hub.endpoint} shows no model team/none", "base.repo_id", "`hf auth login`", "HF_TOKEN")


def test_a_private_repository_is_refused_without_a_token(hub, job, files, tmp_path):
    hub.repo("team/secret", files, private=True)
    assert refused(job(STAGE, workspace(tmp_path, "team/secret")), "is private", "`hf auth login`", "HF_TOKEN")


def test_an_unknown_token_is_refused(hub, job, files, tmp_path):
    hub.repo("team/public", files)
    ended = job(STAGE, workspace(tmp_path, "team/public"), HF_TOKEN=TOKEN)
    assert refused(ended, "does not accept your token", "`hf auth login`")
    assert TOKEN not in ended.err


def test_a_gated_repository_is_refused_with_the_page_of_its_licence(hub, job, files, tmp_path):
    hub.repo("team/gated", files, gated=True)
    ended = job(STAGE, workspace(tmp_path, "team/gated"))
    assert refused(ended, "is gated", f"{hub.endpoint}/team/gated", "licence", "HF_TOKEN")


def test_a_revision_that_does_not_exist_is_refused(hub, job, files, tmp_path):
    hub.repo("team/model", files)
    assert refused(job(STAGE, workspace(tmp_path, "team/model", "v9")), "no revision 'v9'", "base.revision")


def test_something_that_is_no_repository_id_is_refused_without_a_request(hub, job, tmp_path):
    assert refused(job(STAGE, workspace(tmp_path, "https://a/b/c")), "'https://a/b/c'", "OWNER/NAME")
    assert hub.log == []


def test_a_repository_without_safetensors_is_refused_before_weights_are_fetched(hub, job, files, tmp_path):
    files = {name: data for name, data in files.items() if name != "model.safetensors"}
    hub.repo("team/pickled", files | {"pytorch_model.bin": b"pickle"})
    assert refused(job(STAGE, workspace(tmp_path, "team/pickled")), "no model.safetensors", "save_pretrained")
    assert from_storage(hub.log) == []


def test_a_model_without_chat_template_is_refused_before_weights_are_fetched(hub, job, files, tmp_path):
    hub.repo("team/plain", {name: data for name, data in files.items() if name != "chat_template.jinja"})
    assert refused(job(STAGE, workspace(tmp_path, "team/plain")), "team/plain at ", "no chat template")
    assert from_storage(hub.log) == []
    assert "model.safetensors" not in fetched(hub.log)


@pytest.mark.parametrize(("device", "too_small"), [("cpu", "GiB of memory"), ("cuda", "GiB free")])
def test_weights_beyond_memory_or_disk_are_refused_before_they_are_fetched(
    device, too_small, hub, job, files, tmp_path
):
    repo = hub.repo(f"team/huge-{device}", files)
    repo.commits[repo.refs["main"]]["model.safetensors"].listed_size = 9 * 2**50
    parameters = workspace(tmp_path, repo.repo_id) / "params.yaml"
    parameters.write_text(parameters.read_text().replace("device: cpu", f"device: {device}"))
    assert refused(job(STAGE, tmp_path), "9437184.0 GiB", too_small)
    assert from_storage(hub.log) == []


def test_a_hub_that_does_not_answer_is_refused_within_ten_seconds(hub, job, files, tmp_path):
    hub.repo("team/silent", files)
    hub.plant("revision/main", Fault("slow", seconds=60))
    assert refused(
        job(STAGE, workspace(tmp_path, "team/silent")), "team/silent cannot be fetched", "HF_ENDPOINT", code=75
    )


def test_a_hub_that_stays_busy_is_refused_with_what_it_answered(hub, job, files, tmp_path):
    hub.repo("team/limited", files)
    hub.plant("revision/main", *[Fault("status", 429, headers={"Retry-After": "60"})] * 9)
    ended = job(STAGE, workspace(tmp_path, "team/limited"))
    assert refused(ended, "answered 429 for team/limited", "try again later", code=75)


def test_an_unreachable_hub_is_refused_within_seconds(hub, tmp_path, cache):
    folder = workspace(tmp_path, "team/far")
    variables = environment(hub, cache) | {"HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}

    def timed(*arguments: str) -> Ended:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=variables, capture_output=True, text=True, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - started, folder)

    imports = timed("-c", "import tasks.base").seconds
    ended = timed("-m", "tasks.base", "data/dataset", "data/base")
    ended.seconds -= imports  # which on a busy machine take longer than all the rest
    assert refused(
        ended, "team/far cannot be fetched from http://127.0.0.1:9", "HF_ENDPOINT", "HF_HUB_OFFLINE", code=75
    )
