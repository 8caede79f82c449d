"""A release as a team makes one: a Prefect server, the miniature, a Hub, vLLM behind the proxy, and a browser."""

import json
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest
from safetensors.torch import load_file, save_file

from flows.release import verified
from stance.errors import InputError
from stance.machine.files import read_json, write_json
from stance.machine.ports import free_port
from stance.runs.provenance import release_id
from tests.builders.aligned_project import Aligned
from tests.builders.prefect_ui import FINAL, SHOTS, Ui, press
from tests.builders.repository import git
from tests.builders.this_project import change
from tests.doubles.hub import Hub, serving
from tests.doubles.made_up import TOKEN, traces

pytestmark = pytest.mark.timeout(1500)

ADAPTER, MERGED = "someone/stance-adapter", "someone/stance-merged"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as double:
        double.readers.add(TOKEN)
        double.account(TOKEN, {"accessToken": {"displayName": "release", "role": "write"}})
        yield double


@pytest.fixture(scope="module")
def ui(aligned: Aligned, tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[Ui]:
    """`make ui` in a clone of the aligned project that pushes to the Hub; its endpoint ends with it."""
    project = aligned.copy(tmp_path_factory.mktemp("release") / "project")
    change(project, hub={"push": True, "adapter_repo_id": ADAPTER, "merged_repo_id": MERGED, "private": True})
    git(project, "commit", "--quiet", "--all", "--message", "push")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("HF_ENDPOINT", hub.endpoint), ("HF_TOKEN", TOKEN), ("SERVE_PORT", str(free_port()))):
            patch.setenv(name, value)
        running = Ui(project)
        yield running
        running.stop()
        typed(running, "stance serve", "stop")


def typed(ui: Ui, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Type a command in the project, with the server's address as `make ui` prints it."""
    environment = {**ui.environment, "PREFECT_API_URL": f"http://127.0.0.1:{ui.port}/api"}
    command = [sys.executable, "-m", *arguments[0].split(), *arguments[1:]]
    return subprocess.run(command, cwd=ui.project, env=environment, capture_output=True, text=True, timeout=600)


def launch(ui: Ui, **parameters: Any) -> dict[str, Any]:
    """Start a release as the UI does."""
    return ui.create("release/release", **parameters)


def endpoint(ui: Ui) -> Any:
    """Ask the public port who answers."""
    address = json.loads((ui.project / ".serve/state.json").read_text())["port"]
    key = (ui.project / ".serve/key").read_text().strip()
    asked = Request(f"http://127.0.0.1:{address}/provenance", headers={"Authorization": f"Bearer {key}"})
    with urlopen(asked, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def released(ui: Ui) -> dict[str, Any]:
    """The first release, from questions to an endpoint, approved by somebody who looked at it."""
    run = launch(ui, approval_minutes=10)
    assert ui.wait(run, {"PAUSED", *FINAL}, within=500) == "PAUSED"
    with ui.page() as page:
        page.goto(f"/runs/flow-run/{run['id']}")
        page.get_by_role("button", name="Resume", exact=True).click()
        page.get_by_text("adherence").first.wait_for()
        assert not (ui.project / "data/release").exists()
        page.get_by_role("switch").click()
        page.screenshot(path=SHOTS / "release-1-approval.png")
        press(page, "Submit", "resume")
        page.get_by_role("button", name="Submit").wait_for(state="hidden")
    assert ui.wait(run, FINAL, within=300) == "COMPLETED"
    return run


def test_one_click_leads_from_questions_to_an_approved_pushed_and_answering_model(ui: Ui, hub: Hub, released):
    name = release_id(ui.folder(released))
    assert all(hub.repos[repo].tags[name] == hub.repos[repo].refs["main"] for repo in (ADAPTER, MERGED))
    answering = endpoint(ui)
    assert (answering["release"], answering["released"]) == (name, True)
    assert answering["hub"]["merged"]["commit"] == hub.repos[MERGED].refs["main"]
    assert {"gates", "endpoint", "hub-adapter", "hub-merged"} <= ui.artifacts(released).keys()
    assert TOKEN not in (ui.folder(released) / ".dvc/tmp/run.log").read_text()


def test_releasing_a_run_again_commits_nothing_and_it_goes_on_answering(ui: Ui, hub: Hub, released):
    before = {repo: list(hub.repos[repo].commits) for repo in (ADAPTER, MERGED)}
    done = typed(ui, "flows.release", "--run", str(released["name"]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {repo: list(hub.repos[repo].commits) for repo in (ADAPTER, MERGED)} == before
    assert endpoint(ui)["release"] == release_id(ui.folder(released))
    assert TOKEN not in done.stdout + done.stderr


def another_template(merged: Path) -> None:
    template = merged / "chat_template.jinja"
    text = template.read_text()
    template.unlink()
    template.write_text(text.replace("[INST]", "[ASK]"))


def an_older_shard(merged: Path) -> None:
    [shard] = merged.glob("*.safetensors")
    tensors = {name: tensor * 1.01 for name, tensor in load_file(shard).items()}
    shard.unlink()
    save_file(tensors, shard, {"format": "pt"})


def no_eos(merged: Path) -> None:
    path = merged / "tokenizer_config.json"
    config = read_json(path) | {"eos_token": None}
    path.unlink()
    write_json(path, config)


@contextmanager
def planted(ui: Ui, released: dict[str, Any], plant: Callable[[Path], None]) -> Iterator[Path]:
    """Plant a fault in the merged model of the released run, and take it out again; gives the run's folder."""
    folder = ui.folder(released)
    merged, kept = folder / "data/merged", folder / "data/kept"
    shutil.copytree(merged, kept)
    try:
        plant(merged)
        yield folder
    finally:
        shutil.rmtree(merged)
        kept.rename(merged)


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (another_template, "data/merged/chat_template.jinja"),
        (an_older_shard, "data/merged/model.safetensors"),
        (no_eos, "data/merged/tokenizer_config.json"),
    ],
)
def test_a_planted_fault_is_refused_by_name(ui: Ui, released, plant, named):
    """Without the faults the same run is released, by the test above and those below."""
    with planted(ui, released, plant) as folder, pytest.raises(InputError) as refused:
        verified(folder)
    assert str(refused.value).startswith("not released, and nothing outside has changed: ")
    assert named in str(refused.value)


def test_a_refused_release_says_why_last_and_leaves_hub_and_endpoint_untouched(ui: Ui, hub: Hub, released):
    before = (endpoint(ui), {repo: list(hub.repos[repo].commits) for repo in (ADAPTER, MERGED)})
    with planted(ui, released, an_older_shard):
        refused = typed(ui, "flows.release", "--run", str(released["name"]))
    assert refused.returncode == 1
    sentence = refused.stderr.strip().splitlines()[-1]
    assert sentence.startswith("error: not released, and nothing outside has changed: ")
    assert "model.safetensors" in sentence
    assert (endpoint(ui), {repo: list(hub.repos[repo].commits) for repo in (ADAPTER, MERGED)}) == before


@pytest.fixture(scope="module")
def held(ui: Ui, released: dict[str, Any]) -> bytes:
    """The record of the release that was held before anybody said no."""
    return (ui.project / "data/release/release.json").read_bytes()


@pytest.fixture(scope="module")
def unapproved(ui: Ui, released: dict[str, Any], held: bytes) -> dict[str, dict[str, Any]]:
    """Two releases at once that nobody approves: one is told no, the other is told nothing for a second."""
    runs = {
        "no": launch(ui, run=released["name"], approval_minutes=10),
        "silence": launch(ui, run=released["name"], approval_minutes=0.02),
    }
    assert ui.wait(runs["no"], {"PAUSED", *FINAL}) == "PAUSED"
    answer = {"approve": False, "reason": "too blunt"}
    ui.call("POST", f"/flow_runs/{runs['no']['id']}/resume", {"run_input": answer})
    return runs


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("no", "not approved: too blunt"), ("silence", "nobody approved within 0.02 minutes")],
)
def test_a_no_and_a_silence_release_nothing(ui: Ui, held, unapproved, answer, reason):
    assert ui.wait(unapproved[answer], FINAL) == "FAILED"
    until = time.monotonic() + 60  # the server may say so before the flow does: it looks after pauses itself
    while reason not in (ui.project / ".runs/deployments.log").read_text():
        assert time.monotonic() < until
        time.sleep(0.5)
    assert (ui.project / "data/release/release.json").read_bytes() == held


def test_token_and_key_are_written_nowhere_else_and_stand_in_no_argument(ui: Ui, released):
    """The key stands in its own file; the token, which came by the environment, nowhere."""
    key_file = ui.project / ".serve/key"
    key = key_file.read_text().strip()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert traces(ui.project.parent) == []
    files = [path for path in ui.project.parent.rglob("*") if path.is_file()]
    assert [path for path in files if key.encode() in path.read_bytes()] == [key_file]
    arguments = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not any(secret in line for line in arguments for secret in (TOKEN, key))
