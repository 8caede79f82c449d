"""What the check before a run refuses, and what it lets pass."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from typing import Any

import pytest
import yaml

from stance.config.models import HubBase
from stance.config.params import Params
from stance.config.profiles import compose
from stance.data.questions import LABELLED, TEST
from stance.errors import InputError
from stance.machine.memory import GIB
from stance.models.base import Base
from stance.preflight.checks import (
    Row,
    check_disk,
    check_packages,
    check_port,
    check_template,
    preflight,
    refuse_failures,
)
from stance.preflight.stages import Here
from tests.doubles.hub import Hub
from tests.doubles.hub_faults import Fault
from tests.doubles.hub_jobs import Job, environment, jobs
from tests.doubles.made_up import TOKEN

FITS = "parameters fit the data: 10 questions, 2 test prompts"


@pytest.fixture
def rows(questions_folder, tmp_path) -> Callable[..., dict[str, Row]]:
    """Run the checks on the miniature profile with ten questions; `__` stands for the dot."""

    def run(**overrides: Any) -> dict[str, Row]:
        values = miniature(questions_folder, **overrides)
        return {
            row.check: row for row in preflight(Params.parse(values, "test"), tmp_path / "dataset", tmp_path / "base")
        }

    return run


@pytest.fixture
def check(rows) -> Callable[..., str]:
    """Run the checks, raise what fails, and return what was found of the data."""

    def run(**overrides: Any) -> str:
        found = rows(**overrides)
        refuse_failures(list(found.values()))
        return str(found["data"].found)

    return run


@pytest.fixture
def at_hub(hub, tmp_path, monkeypatch) -> Hub:
    """The Hub, as programs that are started here find it: without a token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("ENDPOINT", hub.endpoint), ("HOME", str(tmp_path / "hf")), ("HUB_DISABLE_XET", "1")):
        monkeypatch.setenv(f"HF_{name}", value)
    return hub


PUSHING = {"hub__push": True, "hub__adapter_repo_id": "someone/adapter", "hub__merged_repo_id": "someone/merged"}


# What a check imports, but for huggingface_hub, which reads its address when it is imported.
PREPARE = "import torch, rich.table, stance.preflight.checks"
CHECK = "sys.argv[1:] = {arguments}; run(stance.preflight.checks.main)"


@pytest.fixture(scope="module")
def job(hub_server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """Runs checks in processes that are forked from one that has imported what they need."""
    variables = environment(hub_server, tmp_path_factory.mktemp("hf"))
    with jobs({name: value for name, value in variables.items() if not name.startswith("HF_")}, PREPARE) as run:
        yield run


@pytest.fixture
def checked(job, tmp_path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run `python -m stance preflight` with these parameters, as the environment says by then."""

    def run(values: Mapping[str, Any], *arguments: str) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
        of_the_hub = {name: value for name, value in os.environ.items() if name.startswith("HF_")}
        ended = job(CHECK.format(arguments=list(arguments)), tmp_path, **of_the_hub)
        return subprocess.CompletedProcess([*arguments], ended.code, ended.out, ended.err)

    return run


@pytest.fixture
def pushing(at_hub, questions_folder, checked, monkeypatch) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run the checks as a program that asks for a push."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def run(*arguments: str, **overrides: Any) -> "subprocess.CompletedProcess[str]":
        values = miniature(questions_folder, **PUSHING | overrides)
        done = checked(values, *arguments)
        assert TOKEN not in done.stdout + done.stderr
        return done

    return run


def miniature(questions: Path, **overrides: Any) -> dict[str, Any]:
    given = {"dataset.path": str(questions), "dataset.probes": None, "pairs.data_size": 10}
    blocks = {key: overrides.pop(key) for key in ("base", "dataset") if key in overrides}
    return compose("miniature", given | {key.replace("__", "."): value for key, value in overrides.items()}) | blocks


def access(role: str, *permissions: str) -> dict[str, Any]:
    """What the Hub says of a token; its permissions are those for one repository."""
    token: dict[str, Any] = {"displayName": "test", "role": role}
    if role == "fineGrained":
        scope = {"entity": {"type": "user", "name": "someone"}, "permissions": list(permissions)}
        token["fineGrained"] = {"canReadGatedRepos": True, "global": ["discussion.write"], "scoped": [scope]}
    return {"type": "access_token", "accessToken": token}


def by_check(done: "subprocess.CompletedProcess[str]") -> dict[str, dict[str, str]]:
    return {row["check"]: row for row in json.loads(done.stdout)}


def from_git(folder: Path) -> dict[str, str]:
    """Return a git source with the hashes of a folder, in a place that does not exist."""
    hashes = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (LABELLED, TEST)]
    source = {"source": "git", "url": "/no/such/place", "commit": "0" * 40, "probes": None}
    return source | {"labelled_data_sha256": hashes[0], "test_prompt_sha256": hashes[1]}


def test_parameters_that_fit_the_data_pass(check, tmp_path):
    check()
    assert not (tmp_path / "dataset").exists()


def test_a_data_size_beyond_the_data_is_refused(check):
    with pytest.raises(InputError, match="pairs.data_size is 11 and the data set has 10 questions; set it to at most"):
        check(pairs__data_size=11)


def test_an_offset_beyond_the_data_is_refused(check):
    with pytest.raises(InputError, match="pairs.offset is 10 and the data set has 10 questions; set it to at most 9"):
        check(pairs__offset=10)


def test_a_row_without_support_is_refused(check, questions_folder):
    rows = json.loads((questions_folder / LABELLED).read_text(encoding="utf-8"))
    del rows[3]["support"]
    (questions_folder / LABELLED).write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(InputError, match=f"{LABELLED}, row 4: support: field required"):
        check()


def test_test_prompts_are_checked_as_well(check, questions_folder):
    (questions_folder / TEST).unlink()
    with pytest.raises(InputError, match=f"{TEST} does not exist"):
        check()


def test_where_it_is_strict_what_the_linter_finds_is_refused_before_the_base_is_fetched(check, questions_folder):
    rows = json.loads((questions_folder / LABELLED).read_text(encoding="utf-8"))
    rows[0]["support"] = "好" * 40
    (questions_folder / LABELLED).write_text(json.dumps(rows), encoding="utf-8")
    check()
    with pytest.raises(InputError, match=r"pairs.strict is true and the data set has .*1 of 20 answers"):
        check(pairs__strict=True)


def test_probes_are_checked_as_well(check, tmp_path):
    with pytest.raises(InputError, match=r"asked\.json does not exist"):
        check(dataset__probes=str(tmp_path / "asked.json"))


def test_a_gpu_profile_is_refused_without_a_gpu(check):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="model.device is cuda and torch finds no GPU here; .*NAME=smollm2-135m"):
        check(model__device="cuda")


def test_a_base_in_a_folder_needs_a_chat_template(check, tiny_model, tmp_path):
    from tokenizers import Tokenizer, models

    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_model / name, folder)
    Tokenizer(models.WordLevel({"<s>": 0}, unk_token="<s>")).save(str(folder / "tokenizer.json"))
    config: dict[str, str] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="model has no chat template; expected a chat model: add `chat_template`"):
        check(base={"source": "folder", "path": str(folder)})
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "{{ messages }}"}))
    check(base={"source": "folder", "path": str(folder)})


def test_a_base_that_does_not_fit_is_refused_with_the_numbers(check, tiny_model, monkeypatch):
    monkeypatch.setattr("stance.preflight.footprint.available", lambda device: Here(2**40, 2**40, 2**10))
    with pytest.raises(InputError, match=r"train takes about .* GiB of disk and there are 0.0; make room"):
        check(base={"source": "folder", "path": str(tiny_model)})


def test_a_commit_that_is_already_here_needs_no_network(check, questions_folder, tmp_path):
    shutil.copytree(questions_folder, tmp_path / "dataset")
    assert check(dataset=from_git(questions_folder)) == FITS


def test_a_commit_of_which_only_one_file_is_here_is_fetched(check, questions_folder, tmp_path):
    shutil.copytree(questions_folder, tmp_path / "dataset")
    source = from_git(questions_folder)
    (tmp_path / "dataset" / TEST).unlink()
    with pytest.raises(InputError, match="git fetch of /no/such/place"):
        check(dataset=source)


def lock(folder: Path, path: Path) -> None:
    """Write the part of `dvc.lock` that says where the data set came from."""
    source = {"source": "folder", "path": str(path), "probes": None, "side_effects": None}
    stages = {"dataset": {"params": {"params.yaml": {"dataset": source}}}}
    (folder / "dvc.lock").write_text(json.dumps({"stages": stages}), encoding="utf-8")


def test_another_folder_than_last_time_is_for_dvc_to_see(check, questions_folder, tmp_path, monkeypatch):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / TEST).write_text("[]", encoding="utf-8")
    lock(tmp_path, tmp_path / "elsewhere")
    shutil.copytree("profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    assert check() == FITS


def test_an_edit_to_a_folder_that_dvc_does_not_watch_is_refused(check, questions_folder, tmp_path, monkeypatch):
    shutil.copytree(questions_folder, tmp_path / "dataset")
    lock(tmp_path, questions_folder)
    shutil.copytree("profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    check()
    rows = json.loads((questions_folder / TEST).read_text(encoding="utf-8"))
    (questions_folder / TEST).write_text(json.dumps(rows[:1]), encoding="utf-8")
    with pytest.raises(InputError, match=f"questions/{TEST} is no longer what .*; run `dvc repro -s -f dataset`"):
        check()


def test_an_edit_below_data_sources_is_for_dvc_to_see(check, questions_folder, tmp_path, monkeypatch):
    shutil.copytree(questions_folder, tmp_path / "work/data/sources/own")
    shutil.copytree("profiles", tmp_path / "work/profiles")
    shutil.copytree(questions_folder, tmp_path / "dataset")
    (tmp_path / "dataset" / TEST).write_text("[]")
    monkeypatch.chdir(tmp_path / "work")
    assert check(dataset__path="data/sources/own") == FITS


@pytest.mark.parametrize("arguments", [[], ["--json"]], ids=["table", "json"])
def test_a_misspelt_parameter_is_one_sentence_and_exit_code_1(checked, arguments):
    values = compose("miniature")
    values["train"]["bata"] = values["train"].pop("beta")
    done = checked(values, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: params.yaml: ")
    assert "train.bata: there is no such parameter; remove it or correct its spelling" in done.stderr
    assert "train.beta: field required" in done.stderr
    assert done.stderr.count("\n") == 1


def test_all_failures_are_in_one_table(pushing, hub):
    """Eleven of ten questions, and a token that only reads."""
    hub.account(TOKEN, access("read"))
    done = pushing("--json", pairs__data_size=11)
    found = by_check(done)
    assert list(found) == ["parameters", "data", "disk", "packages", "token", "port"]
    assert [name for name, row in found.items() if row["verdict"] == "fails"] == ["data", "token"]
    assert found["data"]["found"] == "pairs.data_size is 11 and the data set has 10 questions"
    assert found["token"]["found"] == "someone's token has the role read and may not write"
    data, token = (f"{found[name]['found']}; {found[name]['expected']}" for name in ("data", "token"))
    assert (done.returncode, done.stderr) == (1, f"error: {data}; {token}\n")


def test_all_faults_of_a_file_stand_under_found_and_the_advice_under_expected(run_module, questions_folder):
    rows = json.loads((questions_folder / LABELLED).read_text(encoding="utf-8"))
    rows[2].pop("support")
    rows[6]["id"] = 2
    (questions_folder / LABELLED).write_text(json.dumps(rows), encoding="utf-8")
    data = by_check(run_module("stance preflight", miniature(questions_folder), "--json"))["data"]
    assert data["found"].splitlines() == [
        f"{questions_folder / LABELLED}, row 3: support: field required", "row 7: id 2 is already the id of row 2",
    ]  # fmt: skip
    assert data["expected"].endswith("none of them empty, and give every row an id of its own")


def test_people_read_a_table(run_module, questions_folder):
    done = run_module("stance preflight", miniature(questions_folder, pairs__data_size=11))
    cells = [[cell.strip() for cell in line.split("│")[1:3]] for line in done.stdout.splitlines() if "│" in line]
    assert [cell for cell in cells if cell[0]][:3] == [["parameters", "ok"], ["data", "fails"], ["disk", "ok"]]
    assert done.stderr.startswith("error: pairs.data_size is 11 and the data set has 10 questions; set it to at most")
    assert done.returncode == 1


def test_programs_read_the_same_rows_as_json(run_module, questions_folder):
    done = run_module("stance preflight", miniature(questions_folder), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(row.keys() == {"check", "verdict", "found", "expected"} for row in json.loads(done.stdout))
    assert by_check(done)["data"] == {"check": "data", "verdict": "ok", "found": FITS, "expected": ""}


def test_a_base_is_measured_even_if_the_data_cannot_be_read(rows, questions_folder, tiny_model):
    (questions_folder / LABELLED).unlink()
    found = rows(base={"source": "folder", "path": str(tiny_model)})
    assert found["data"].verdict == "fails"
    assert found["host memory"].verdict == found["disk"].verdict == "ok"


def test_memory_and_disk_are_rows_of_their_own(rows, tiny_model, monkeypatch):
    """3 GiB for a process, 0.6 for its libraries and 1 to merge in; the model is a few bytes beside them."""
    monkeypatch.setattr("stance.preflight.footprint.available", lambda device: Here(0, 2 * GIB, 2**10))
    found = rows(base={"source": "folder", "path": str(tiny_model)})
    assert found["host memory"].verdict == found["disk"].verdict == "fails"
    assert found["chat template"].verdict == "ok"
    for stage in ("train takes about 3.6", "merge takes about 4.6", "answers takes about 3.0"):
        assert f"{stage} GiB of host memory and there are 2.0" in str(found["host memory"].error)
    assert "GPU memory" not in found


def test_what_fits_is_said_with_the_stage_that_needs_most(rows, tiny_model, monkeypatch):
    monkeypatch.setattr("stance.preflight.footprint.available", lambda device: Here(0, 8 * GIB, 5 * GIB))
    found = rows(base={"source": "folder", "path": str(tiny_model)})
    assert found["host memory"][1:4] == ("ok", "8.0 GiB", "about 4.6 GiB for merge")
    assert found["disk"][1:3] == ("ok", "5.0 GiB")


def test_gpu_memory_is_a_row_where_there_is_a_gpu(rows, tiny_model, monkeypatch):
    """The engine that answers takes 3 GiB beside its few weights."""
    base = {"source": "folder", "path": str(tiny_model)}
    monkeypatch.setattr("stance.preflight.footprint.available", lambda device: Here(40 * GIB, 2**40, 2**40))
    found = rows(model__device="cuda", base=base)["GPU memory"]
    assert found[1:4] == ("ok", "40.0 GiB", "about 3.0 GiB for answers")
    monkeypatch.setattr("stance.preflight.footprint.available", lambda device: Here(2 * GIB, 2**40, 2**40))
    found = rows(model__device="cuda", base=base)["GPU memory"]
    assert found[1:3] == ("fails", "answers takes about 3.0 GiB of GPU memory and there are 2.0")
    assert found.expected == "set answers.quantization to bitsandbytes, or take a smaller model"


def test_a_missing_gpu_is_not_also_too_small(rows, tiny_model):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = rows(model__device="cuda", base={"source": "folder", "path": str(tiny_model)})
    assert [row.check for row in found.values() if row.verdict == "fails"] == ["device"]
    assert "GPU memory" not in found


def test_a_full_disk_is_refused_before_a_miniature_is_made():
    assert check_disk(2 * GIB).verdict == "ok"
    with pytest.raises(InputError, match=r"the disk has 0\.5 GiB free; expected 1 GiB or more: make room"):
        check_disk(GIB // 2)


def test_packages_that_differ_from_their_pins_are_a_warning_that_names_them(tmp_path):
    lines = ["# a comment", "rich==0.0.1", f"pydantic=={version('pydantic')}", "no-such-package==1.0"]
    (tmp_path / "cpu.txt").write_text("\n".join(lines))
    row = check_packages(tmp_path)
    assert row.verdict == "warning"
    assert row.found == f"rich {version('rich')}, pinned 0.0.1; no-such-package missing, pinned 1.0"


def test_only_the_first_packages_are_named(tmp_path):
    (tmp_path / "cpu.txt").write_text("".join(f"no-such-package-{n}==1.0\n" for n in range(5)))
    assert check_packages(tmp_path).found.endswith("no-such-package-2 missing, pinned 1.0; and 2 more")


def test_packages_as_pinned_are_counted_over_all_files(tmp_path):
    (tmp_path / "cpu.txt").write_text(f"rich=={version('rich')}\n")
    (tmp_path / "dev.txt").write_text(f"pytest=={version('pytest')}\n")
    assert check_packages(tmp_path)[1:3] == ("ok", "2 packages as pinned in cpu.txt and dev.txt")


def test_an_environment_that_make_did_not_make_is_a_warning(tmp_path):
    row = check_packages(tmp_path / "installed")
    assert row.verdict == "warning"
    assert "make has not made this environment" in row.found


@pytest.mark.parametrize("auth", [access("write"), access("fineGrained", "repo.content.read", "repo.write")])
def test_a_token_that_may_write_passes(pushing, hub, auth):
    hub.account(TOKEN, auth)
    done = pushing("--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert by_check(done)["token"]["found"] == "someone's token may write"


@pytest.mark.parametrize("auth", [access("read"), access("fineGrained", "repo.content.read", "discussion.write")])
def test_a_token_that_only_reads_is_refused(pushing, hub, auth):
    hub.account(TOKEN, auth)
    done = pushing()
    role = auth["accessToken"]["role"]
    assert done.stderr.startswith(f"error: someone's token has the role {role} and may not write; make one that may")
    assert done.stderr.endswith(f"at {hub.endpoint}/settings/tokens, then `hf auth login` or set HF_TOKEN\n")
    assert done.returncode == 1


def test_a_login_that_does_not_say_what_it_may_is_a_warning(pushing, hub):
    hub.account(TOKEN, {"type": "oauth"})
    done = pushing("--json")
    assert (done.returncode, by_check(done)["token"]["verdict"]) == (0, "warning")


@pytest.mark.parametrize("token", [TOKEN, f"{TOKEN}的"])
def test_a_token_that_the_hub_does_not_know_is_refused(pushing, hub, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    done = pushing()
    assert done.stderr.startswith(f"error: {hub.endpoint} does not accept your token; make one that may write")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_push_without_a_token_is_refused_and_the_hub_not_asked(pushing, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    done = pushing()
    assert done.stderr.startswith("error: hub.push is true and there is no token for the Hub; make one that may write")
    assert (done.returncode, hub.log) == (1, [])


def test_no_token_is_asked_for_without_a_push(pushing, hub):
    hub.account(TOKEN, access("read"))
    done = pushing("--json", hub__push=False)
    assert (done.returncode, hub.log) == (0, [])
    assert "token" not in by_check(done)


def test_a_hub_that_is_busy_may_work_later(pushing, hub):
    hub.plant("whoami-v2", Fault("status", 429))
    done = pushing()
    assert done.stderr.startswith(f"error: {hub.endpoint}/api/whoami-v2 answered 429; try again later")
    assert done.returncode == 75


def test_a_mirror_that_knows_no_accounts_is_refused(pushing, hub):
    hub.plant("whoami-v2", Fault("status", 200))
    done = pushing()
    assert done.stderr.startswith(f"error: {hub.endpoint}/api/whoami-v2 answers no JSON; unset HF_ENDPOINT")
    assert done.returncode == 1


def test_a_hub_that_is_silent_is_not_waited_for(pushing, hub):
    hub.plant("whoami-v2", Fault("slow", seconds=8))
    done = pushing()
    assert "cannot be reached (ReadTimeout); check the network" in done.stderr
    assert done.returncode == 75


def test_a_hub_that_is_away_may_work_later_but_not_beside_a_failure_that_stays(pushing, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert pushing().returncode == 75
    done = pushing(pairs__data_size=11)
    assert done.returncode == 1
    assert "the data set has 10 questions; " in done.stderr
    assert "http://127.0.0.1:9/api/whoami-v2 cannot be reached (ConnectError)" in done.stderr


def test_a_push_without_the_network_is_refused(pushing, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = pushing()
    assert "HF_HUB_OFFLINE is set; unset it, or set hub.push to false" in done.stderr
    assert done.returncode == 1


@pytest.fixture
def chat_model(tiny_model) -> dict[str, bytes]:
    """A model whose template is in tokenizer_config.json, where older ones have it."""
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    config = json.loads(files["tokenizer_config.json"])
    config["chat_template"] = files.pop("chat_template.jinja").decode()
    return files | {"tokenizer_config.json": json.dumps(config).encode()}


@pytest.fixture
def from_hub(at_hub, questions_folder, checked) -> Callable[[], dict[str, dict[str, str]]]:
    """Run the checks on a model of the Hub; standard error holds failures and nothing else."""
    base = {"source": "hub", "repo_id": "team/chat", "revision": "main"}

    def run() -> dict[str, dict[str, str]]:
        done = checked(miniature(questions_folder, base=base), "--json")
        found = by_check(done)
        failures = [f"{row['found']}; {row['expected']}" for row in found.values() if row["verdict"] == "fails"]
        assert done.stderr == "".join(f"error: {failure}\n" for failure in failures)
        return found

    return run


@pytest.mark.parametrize("template", [b"", b"{{ messages }}"], ids=["without", "as a file"])
def test_the_chat_template_of_a_hub_base_is_looked_for_before_its_weights(from_hub, hub, chat_model, template):
    del chat_model["tokenizer_config.json"]
    hub.repo("team/chat", chat_model | ({"chat_template.jinja": template} if template else {}))
    found = from_hub()
    assert found["chat template"]["verdict"] == ("ok" if template else "fails")
    assert found["host memory"]["verdict"] == "ok"
    if not template:
        assert found["chat template"]["found"] == "team/chat has no chat template"
    asked = {asked.path.rsplit("/", 1)[-1] for asked in hub.log if "/resolve/" in asked.path}
    assert asked == {"config.json", "tokenizer.json"} | ({"chat_template.jinja"} if template else set())


def test_a_tokenizer_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("chat_template")
    base = HubBase(source="hub", repo_id="team/chat", revision="main")
    with pytest.raises(InputError, match=r"tokenizer_config.json is not JSON \(.*\); choose another model"):
        check_template(base, tmp_path)


def test_a_hub_base_that_is_recorded_and_cached_needs_no_network(from_hub, hub, chat_model, tmp_path, monkeypatch):
    repo = hub.repo("team/chat", chat_model)
    assert from_hub()["chat template"]["verdict"] == "ok"
    files = {name: {"sha256": "0" * 64, "size": len(data)} for name, data in chat_model.items()}
    record = {"source": "hub", "repo_id": "team/chat", "revision": repo.refs["main"], "files": files}
    Base.model_validate(record).write(tmp_path / "data/base")
    hub.log.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = from_hub()
    assert found["chat template"]["verdict"] == found["disk"]["verdict"] == "ok"
    assert hub.log == []


def test_a_hub_base_that_does_not_exist_is_said_once(from_hub):
    found = from_hub()
    assert [name for name, row in found.items() if row["verdict"] == "fails"] == ["base model"]
    assert "shows no model team/chat" in found["base model"]["found"]


@contextmanager
def answering(line: bytes) -> Iterator[str]:
    """A program that says one thing to whoever connects."""

    class Says(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1024)
            self.request.sendall(line)

    with TCPServer(("127.0.0.1", 0), Says) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield str(server.server_address[1])
        server.shutdown()


def test_a_free_port_is_free():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert check_port(str(port))[1:3] == ("ok", f"{port} is free for the UI")


def test_the_port_may_be_that_of_the_prefect_server():
    with answering(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n"3.7.7"') as port:
        assert check_port(port)[1:3] == ("ok", f"the Prefect server is up at http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
def test_a_port_of_another_program_is_a_warning_with_another_port(line):
    with answering(line) as port:
        row = check_port(port)
    assert row[1:] == (
        "warning",
        f"{port} is in use by another program",
        f"for the UI: make ui PORT={int(port) + 100}",
        None,
    )


@pytest.mark.parametrize("port", ["", "0", "65536", "tcp://10.0.0.1:80", "-1"])
def test_what_is_no_port_is_a_warning(port):
    assert check_port(port)[1:3] == ("warning", f"PORT is {port!r}")


def test_a_check_of_the_miniature_waits_for_no_large_import(tmp_path):
    slow = "{'torch', 'transformers', 'huggingface_hub', 'sklearn'}"
    for name in ("data", "dvc.yaml", "requirements", "deploy"):
        (tmp_path / name).symlink_to(Path(name).resolve())
    shutil.copy("profiles/miniature.yaml", tmp_path / "params.yaml")
    run = "import sys; from stance.preflight.checks import main; main()"
    code = f"{run}; print(*{slow} & sys.modules.keys(), file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert done.stderr == "\n"
