"""The double of the Hub answers the real client as the protocol page says."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.hub import Hub
from tests.doubles.hub_jobs import Job, environment, jobs
from tests.doubles.made_up import TOKEN

PREPARE = """
import time
from huggingface_hub import CommitOperationAdd as Add, CommitOperationDelete as Delete, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
api = HfApi()
def tell(answer): print(json.dumps(answer))
def status(call):
    try:
        call()
    except HfHubHTTPError as error:
        return error.response.status_code
"""
MAKE = """
api.create_repo('team/x', private=True)
made = api.create_commit('team/x', [Add(n, n) for n in os.listdir() if '.' in n], commit_message='first')
"""


@pytest.fixture(scope="module")
def ways(hub_server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Job]]:
    variables = environment(hub_server, tmp_path_factory.mktemp("hf"))
    with jobs(variables, PREPARE) as xet, jobs(variables | {"HF_HUB_DISABLE_XET": "1"}, PREPARE) as lfs:
        yield {"xet": xet, "lfs": lfs}


@pytest.fixture
def ask(ways, hub, tmp_path):
    """Run code against the Hub, and return what it tells."""
    hub.writer(TOKEN)

    def run(code: str, way: str = "xet") -> Any:
        ended = ways[way](code, tmp_path, HF_TOKEN=TOKEN, HF_XET_CACHE=str(tmp_path / "xet"))
        assert ended.code == 0, ended.err
        return json.loads(ended.out.splitlines()[-1])

    return run


def floats(count: int) -> bytes:
    """Bytes that hf_xet groups by their place in a float before it compresses them."""
    return b"".join(bytes([number % 251, number % 7, 63, 61]) for number in range(count))


@pytest.mark.parametrize("down", ["xet", "lfs"])
@pytest.mark.parametrize("up", ["xet", "lfs"])
def test_what_goes_up_one_way_comes_down_the_other(up, down, ask, hub, tmp_path):
    files = {
        "noise.safetensors": random.Random(up).randbytes(300_000),
        "floats.safetensors": floats(100_001)[:-1],
        "runs.bin": b"ab" * 200_000,
        "small.json": b"{}",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert ask(MAKE + "tell(made.oid)", up) == hub.repos["team/x"].refs["main"]
    assert {name: hub.repos["team/x"].head[name].data for name in files} == files
    folder = Path(ask(f"tell(snapshot_download('team/x', cache_dir='{down}'))", down))
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert any("/v1/shards" in asked.path for asked in hub.log) == (up == "xet")
    assert any("/v1/reconstructions/" in asked.path for asked in hub.log) == (up == down == "xet")


def test_a_large_object_goes_up_in_parts(ask, hub, tmp_path):
    data = random.Random(0).randbytes(250_000)
    (tmp_path / "w.safetensors").write_bytes(data)
    hub.stored.part_size = 100_000
    ask(MAKE + "tell(made.oid)", "lfs")
    assert hub.repos["team/x"].head["w.safetensors"].data == data
    assert len(hub.asked("PUT", "/storage/")) == 3


def test_trees_have_folders_and_pages(ask, hub):
    hub.repo("team/x", {"a.json": b"1", "one/b.json": b"22", "one/two/c.bin": b"333"})
    hub.page = 2
    tell = "tell([(row.path, getattr(row, 'size', None)) for row in api.list_repo_tree('team/x'{})])"
    every = [["one", None], ["one/two", None], ["a.json", 1], ["one/b.json", 2], ["one/two/c.bin", 3]]
    assert ask(tell.format(", recursive=True")) == every
    assert len(hub.asked("GET", "/tree/")) == 3
    assert ask(tell.format("")) == [["one", None], ["a.json", 1]]
    assert ask(tell.format(", 'one'")) == [["one/two", None], ["one/b.json", 2]]
    assert ask("tell([row.path for row in api.get_paths_info('team/x', ['a.json', 'none'])])") == ["a.json"]


def test_commits_branches_and_tags_are_listed(ask, hub):
    hub.repo("team/x", {"a.json": b"1"})
    code = """
made = api.create_commit('team/x', [Add('b.json', b'2'), Delete('a.json')], commit_message='second')
api.create_tag('team/x', tag='v1', revision=made.oid)
api.create_branch('team/x', branch='side', revision='v1')
again = status(lambda: api.create_tag('team/x', tag='v1')), status(lambda: api.create_branch('team/x', branch='side'))
refs = api.list_repo_refs('team/x')
named = [(ref.name, ref.target_commit == made.oid) for ref in refs.branches + refs.tags]
tell([[row.title for row in api.list_repo_commits('team/x')], named, again, api.list_repo_files('team/x')])
"""
    named = [["main", True], ["side", True], ["v1", True]]
    assert ask(code) == [["second", "by hand"], named, [409, 409], ["b.json"]]


def test_a_stale_parent_is_412_and_content_that_never_arrived_400(ask, hub):
    old = hub.repo("team/x", {"a.json": b"1"}).refs["main"]
    hub.repos["team/x"].commit({"a.json": b"2"})
    code = f"""
late = lambda: api.create_commit('team/x', [Add('b', b'2')], commit_message='late', parent_commit='{old}')
lost = Add('c.bin', b'3')
lost._upload_mode, lost._is_uploaded = 'lfs', True
tell([status(late), status(lambda: api.create_commit('team/x', [lost], commit_message='lost'))])
"""
    assert ask(code) == [412, 400]
    assert hub.repos["team/x"].titles() == ["by hand", "by hand"]


def test_a_repository_is_made_once(ask, hub):
    code = "tell([status(lambda: api.create_repo('team/x', exist_ok=ok)) for ok in (False, True, False)])"
    assert ask(code) == [None, None, 409]
