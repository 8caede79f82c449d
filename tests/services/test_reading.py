"""A release with approval and push opens each weight file twice in this project's code, counted over all processes.

Once for every hash, and once to copy it into `data/release`.
The engine and the recomputation, which open them again, are not started here. The Hub's client opens the files that it
sends, but not once more to hash them.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from stance.data.chat import fingerprint, load_tokenizer
from tests.builders.finished_run import write_lock, write_run
from tests.builders.repository import git
from tests.doubles.hub import Hub
from tests.doubles.hub_jobs import environment
from tests.doubles.made_up import TOKEN

# Every Python process imports it as it starts, those that others start too.
AUDIT = """
import os, sys

def note(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".safetensors") and "x" not in str(arguments[1]):
        frame = sys._getframe(1)
        callers = []
        while frame:
            callers.append(frame.f_code.co_filename)
            frame = frame.f_back
        client = any("huggingface_hub" in caller for caller in callers)
        line = f"{'client' if client else 'project'} {os.getpid()} {os.path.basename(arguments[0])}\\n"
        log = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, line.encode())
        os.close(log)

sys.addaudithook(note)
"""
# The flow as it is, without a Prefect server: its tasks are called as functions, and the checks of a model run in their
# own process, as an endpoint starts them.
RELEASE = """
import logging, pathlib, sys
import flows.release as flow
from stance.serving import engine

run = pathlib.Path(".runs/mine").resolve()
for name in ("judge", "push", "record_release", "serve"):
    setattr(flow, name, getattr(flow, name).fn)
for name in ("create_link_artifact", "create_markdown_artifact", "approve", "require_place", "recompute"):
    setattr(flow, name, lambda *_, **__: None)
flow.get_run_logger = lambda: logging.getLogger("release")
flow.finished = lambda name: run
flow.ask = lambda run, address: {"release": run.release, "address": address}

def serve_run(folder, say, digests):
    engine.SERVE.mkdir(mode=0o700)
    request = engine.ServeRequest(run=str(folder), digests=digests)
    return engine.prepare(engine.ServeRequest.model_validate_json(request.model_dump_json()), 1).release

flow.serve_run = serve_run
print(flow.release.fn(run="mine", approval_minutes=1))
"""


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path) -> Path:
    """A project with a finished run whose merged model is one."""
    project = tmp_path / "project"
    run = write_run(project / ".runs/mine")
    shutil.rmtree(run / "data/merged")
    shutil.copytree(tiny_model, run / "data/merged")
    for stage in ("base", "merge"):
        fingerprint(load_tokenizer(tiny_model)).write(run / f"data/{stage}/fingerprint.json")
    write_lock(run)
    git(run, "commit", "--quiet", "--all", "--message", "model")
    shutil.copy(run / "params.yaml", project)
    return project


@pytest.mark.parametrize("way", ["xet", "lfs"])
def test_a_release_with_approval_and_push_hashes_each_weight_file_once_and_copies_it_once(
    way, project: Path, hub: Hub, tmp_path: Path
):
    hub.writer(TOKEN)
    audit = tmp_path / "audit/sitecustomize.py"
    audit.parent.mkdir()
    audit.write_text(AUDIT)
    variables = environment(hub, tmp_path / "hf")
    variables |= {
        "PYTHONPATH": f"{audit.parent}{os.pathsep}{variables['PYTHONPATH']}",
        "OPENED": str(tmp_path / "opened"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": str(int(way == "lfs")),
    }
    ended = subprocess.run(
        [sys.executable, "-c", RELEASE], cwd=project, env=variables, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    weights = [path.name for path in project.glob(".runs/mine/data/*/*.safetensors")]
    lines = [line.split() for line in (tmp_path / "opened").read_text().splitlines()]
    assert Counter(name for who, _, name in lines if who == "project") == dict.fromkeys(weights, 2)
    # The client takes a sample of 512 bytes, and with git-lfs sends the file itself; to hash it would be one more.
    most = {"xet": 1, "lfs": 2}[way]
    assert Counter(name for who, _, name in lines if who == "client") == dict.fromkeys(weights, most)
    assert len(hub.repos) == 2
    assert (project / "data/release/merged/model.safetensors").exists()
