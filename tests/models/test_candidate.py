"""What is refused before an engine loads it: a model that is not the run's own, and a run that is not finished."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stance.errors import InputError
from stance.machine.files import md5, md5_of_files, write_json
from stance.models.loading import arithmetic
from stance.release.bundle import bundle
from stance.runs.finished import FinishedRun
from stance.runs.lockfile import FILES
from stance.runs.provenance import release_id
from stance.serving.candidate import from_run
from tests.builders.finished_run import write_lock
from tests.builders.served_run import another, project
from tests.builders.toy_project import dvc
from tests.doubles.hub import Hub

GATES = [
    (name, True)
    for name in (
        "fingerprint", "watchdog", "parity", "served", "classifier", "adherence", "degeneration", "displacement"
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return project(tmp_path_factory.mktemp("candidate") / "project", tiny_model)


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, as the tree that one stands in."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return Path()


def edit(path: Path, **values: object) -> None:
    """Set values in a JSON file; None takes one out."""
    known = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in known.items() if value is not None}))


def recorded(run: Path) -> None:
    """Record the merged model as it is, file by file."""
    write_json(run / FILES, md5_of_files(run / "data/merged"))
    write_lock(run)


def test_a_finished_run_is_a_candidate_and_says_where_it_comes_from(run: Path):
    found = from_run(run)
    assert (found.release, found.released, found.window) == (found.provenance["release"], False, 512)
    assert found.provenance["served"]["as"] == "merged model"
    assert [(gate["name"], gate["passed"]) for gate in found.provenance["gates"]] == GATES
    number = arithmetic("cpu").itemsize  # bytes; the file holds bf16, and some CPUs compute in float32
    assert found.dtype == {2: "bfloat16", 4: "float32"}[number]
    assert found.cache_per_token == 2 * number * 2 * 1 * 32
    stored = (run / "data/merged/model.safetensors").stat().st_size
    assert found.weights == pytest.approx(stored * number / 2, rel=0.01)


def test_an_edit_for_the_next_run_does_not_touch_the_model_and_an_edit_of_the_model_does(run: Path):
    """An engine that has ended by itself starts again from what was checked."""
    checked = from_run(run)
    (run / "params.yaml").write_text("seed: 7\n")
    assert checked.untouched()
    (run / "data/merged/config.json").write_text("{}")
    assert not checked.untouched()
    (run / "data/merged/config.json").unlink()
    assert not checked.untouched()


def test_another_chat_template_is_refused_by_name(run: Path):
    template = run / "data/merged/chat_template.jinja"
    template.write_text(template.read_text() + " ")
    write_lock(run)
    with pytest.raises(InputError, match=r"tokenizer: found the chat template changed, expected the chat template"):
        from_run(run)


def test_a_template_put_in_by_hand_is_a_file_that_the_lock_does_not_know(run: Path):
    template = run / "data/merged/chat_template.jinja"
    recorded(run)
    template.write_text(template.read_text() + " ")
    with pytest.raises(InputError, match="^data/merged/chat_template.jinja in . differ from what dvc.lock records"):
        from_run(run)


def test_a_tokenizer_without_eos_is_refused_by_name(run: Path):
    edit(run / "data/merged/tokenizer_config.json", eos_token=None)
    (run / "data/merged/special_tokens_map.json").unlink(missing_ok=True)
    write_lock(run)
    with pytest.raises(InputError, match=r"tokenizer: found there is no EOS token"):
        from_run(run)


def test_a_shard_of_an_older_run_is_refused_by_name(run: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    merged, older = run / "data/merged", another(run / "data/merged", tmp_path / "older")
    for folder in (merged, older):
        model = AutoModelForCausalLM.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="100KB")
    recorded(run)
    from_run(run)
    shard = sorted(merged.glob("model-00002-of-*.safetensors"))[0]
    shutil.copyfile(older / shard.name, shard)
    with pytest.raises(InputError, match=f"^data/merged/{shard.name} in . differ from what dvc.lock records"):
        from_run(run)


def test_an_unfinished_run_says_what_is_missing(run: Path):
    shutil.rmtree("data/merged")
    with pytest.raises(InputError, match="data/merged does not exist; expected a finished run: `make repro` first"):
        from_run(run)


def test_the_digest_of_a_folder_is_that_of_dvc(tmp_path: Path):
    (tmp_path / "model/sub").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "sub/c.txt"):
        (tmp_path / "model" / name).write_text(name)
    dvc(tmp_path, "init", "--quiet", "--no-scm")
    dvc(tmp_path, "add", "--quiet", "model")
    assert md5(tmp_path / "model") in (tmp_path / "model.dvc").read_text()
    [listed] = tmp_path.glob(".dvc/cache/files/md5/*/*.dir")
    assert md5_of_files(tmp_path / "model") == {row["relpath"]: row["md5"] for row in json.loads(listed.read_text())}


def test_files_that_were_changed_added_or_lost_are_named_by_a_list_that_the_lock_knows(run: Path):
    recorded(run)
    merged = run / "data/merged"
    (merged / "config.json").write_text("{}")
    (merged / "more.txt").touch()
    (merged / "tokenizer.json").unlink()
    named = [f"data/merged/{name}" for name in ("config.json", "more.txt", "tokenizer.json")]
    with pytest.raises(InputError, match=f"^{', '.join(named)} in . differ"):
        FinishedRun.read(run)
    (run / FILES).unlink()
    with pytest.raises(InputError, match=f"^{FILES}, data/merged in . differ"):
        FinishedRun.read(run)


def released(run: Path) -> dict[str, bytes]:
    """Return what a release of a run has on the Hub."""
    finished = FinishedRun.read(run)
    return {name: file.read() for name, file in bundle(finished, finished.params.hub, "merged").items()}


def candidate_of(hub: Hub, folder: Path, repo_id: str, revision: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "stance", "candidate", str(folder / "found.json")]
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    where = ["--hub", repo_id, "--revision", revision]
    return subprocess.run([*command, *where], env={**os.environ, **settings}, capture_output=True, text=True)


@pytest.mark.parametrize("tagged", [True, False])
def test_a_release_is_taken_from_the_hub_with_where_it_comes_from(made: Path, hub: Hub, tmp_path: Path, tagged: bool):
    repo = hub.repo("team/stance", released(made))
    repo.tags[release_id(made)] = repo.refs["main"]
    revision = release_id(made) if tagged else "main"
    done = candidate_of(hub, tmp_path, "team/stance", revision)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
    said = found["provenance"]
    assert (said["release"], said["released"]) == (release_id(made), tagged)
    assert said["hub"] == {"merged": {"repo_id": "team/stance", "commit": repo.resolve("main")}}
    assert [(gate["name"], gate["passed"]) for gate in said["gates"]] == GATES
    assert len(said["commit"]) == 40
    assert (found["name"], found["logps"]) == (f"team/stance@{revision}", None)
    assert (Path(found["model"]) / "model.safetensors").exists()


def test_a_model_on_the_hub_that_is_no_release_is_refused(made: Path, hub: Hub, tmp_path: Path):
    files = {name: content for name, content in released(made).items() if name != "gates.json"}
    hub.repo("team/other", files)
    done = candidate_of(hub, tmp_path, "team/other", "main")
    assert done.returncode == 1
    assert "has no gates.json; expected a release of this project: name another" in done.stderr


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"fingerprint.json": b"{}"}, "is not what was signed: fingerprint.json changed, added or lost"),
        ({"model.safetensors": b"other"}, "is not what was signed: model.safetensors changed, added or lost"),
        ({"params.yaml": b"seed: 7"}, "is not what was signed: params.yaml changed, added or lost"),
        ({"notes.txt": b"more"}, "is not what was signed: notes.txt changed, added or lost"),
        ({"model.sig": b"{}"}, "model.sig of team/edited .* is no signature of OpenSSF Model Signing"),
        ({"model.sig": None}, "has no model.sig; expected a signed release: name another"),
    ],
    ids=str,
)
def test_a_release_that_is_not_what_was_signed_is_not_served(made, hub: Hub, tmp_path: Path, changed, words):
    files = released(made) | changed
    hub.repo("team/edited", {name: content for name, content in files.items() if content is not None})
    done = candidate_of(hub, tmp_path, "team/edited", "main")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert re.search(words, done.stderr), done.stderr
