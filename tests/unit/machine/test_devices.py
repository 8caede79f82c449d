"""GPUs are leased by one run at a time, in turn, until the run ends. A tool that only prints stands for the driver."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from stance.config.profiles import compose
from stance.errors import InputError
from stance.machine import devices
from stance.machine.devices import LEASED, VISIBLE, confine, holders, lease, memory, visible
from stance.machine.memory import MIB, Room
from stance.runs import stages

RUN = """
import os, sys, time
from pathlib import Path
from stance.machine.devices import lease

count, name, locks, marks, seconds = sys.argv[1:]
locks, marks = Path(locks), Path(marks)
print("begins", flush=True)
with lease(int(count), name, lambda _: None, locks) as held:
    paths = [marks / device.name for device in held.devices]
    for path in paths:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))  # fails while another run works there
    print("has", *(device.name for device in held.devices), flush=True)
    time.sleep(float(seconds))
    for path in paths:
        path.unlink()
"""


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close after a test what its process would hold until it ends."""
    monkeypatch.setattr(devices, "_kept", [])
    yield
    for file in devices._kept:
        file.close()


def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what may limit the GPUs, and what the test sets itself when it has ended."""
    for name in (VISIBLE, LEASED):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give this machine a number of GPUs: their UUIDs begin with GPU-a, GPU-b and so on."""

    def give(count: int) -> None:
        rows = [f"{n}, GPU-{'abcdefgh'[n]}{n}f0, {1000 * (n + 1)}, {80000 - n}" for n in range(count)]
        tool = tmp_path / "bin/nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
        unset(monkeypatch)

    return give


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a process that leases GPUs; `marks` is empty whenever nobody works."""
    (tmp_path / "marks").mkdir()
    started: list[subprocess.Popen[str]] = []

    def start(count: int, name: str, seconds: float = 600) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", RUN, str(count), name, str(tmp_path), str(tmp_path / "marks"), str(seconds)]
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        assert read(process) == "begins"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def names(found: list[devices.Device]) -> list[str]:
    return [device.name for device in found]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("-1", []),
        ("2", ["2"]),
        ("2,0", ["2", "0"]),
        (" 1 , 2 ", ["1", "2"]),
        ("1,7,0", ["1"]),  # as CUDA reads it
        ("GPU-c2f0,GPU-a", ["2", "0"]),
        ("GPU-", []),  # could be any
        ("MIG-5f,1", ["MIG-5f", "1"]),
    ],
)
def test_the_user_limits_the_gpus_by_number_or_uuid(machine, monkeypatch, allowed, expected):
    machine(3)
    if allowed is not None:
        monkeypatch.setenv(VISIBLE, allowed)
    assert names(visible()) == expected


def test_the_gpu_with_the_least_memory_counts_for_all(machine, monkeypatch):
    machine(3)
    assert memory(1) == Room(1000 * MIB, 80000 * MIB)
    monkeypatch.setenv(VISIBLE, "1,2")
    assert memory(2) == Room(2 * 2000 * MIB, 2 * 79998 * MIB)
    with pytest.raises(InputError, match="model.devices is 3 and this process may use 2 GPUs; set it to 2, or take a"):
        memory(3)


def test_a_lease_names_its_gpus_to_the_stage_and_its_holder_to_others(machine, tmp_path):
    machine(3)
    with lease(1, "first (train)", print, tmp_path) as one, lease(2, "second (train)", print, tmp_path) as two:
        assert one.variables() == {VISIBLE: "0", LEASED: "1"}
        assert two.variables() == {VISIBLE: "1,2", LEASED: "1"}
        assert holders(visible(), tmp_path) == {"0": "first (train)", "1": "second (train)", "2": "second (train)"}
    assert holders(visible(), tmp_path) == {}


def test_an_ended_lease_leaves_its_gpu_to_others_though_a_process_still_has_its_file(machine, tmp_path):
    machine(1)
    with lease(1, "first", print, tmp_path) as first:
        files = [file.fileno() for file in first.files]
        process = subprocess.Popen(["sleep", "60"], pass_fds=files)
        first.end()
        with lease(1, "second", print, tmp_path):
            assert holders(visible(), tmp_path) == {"0": "second"}
    process.kill()
    process.wait()


def test_a_stage_without_a_gpu_holds_none_and_does_not_wait(machine, tmp_path):
    machine(1)
    said = []
    with lease(1, "first", said.append, tmp_path), lease(0, "second", said.append, tmp_path) as held:
        assert held.devices == held.files == ()
        assert held.variables() == {}
    assert said == []


def test_more_gpus_than_there_are_is_refused_and_not_waited_for(machine, tmp_path):
    machine(2)
    with (
        pytest.raises(InputError, match="model.devices is 3 and this process may use 2 GPUs"),
        lease(3, "first", print, tmp_path),
    ):
        pass


def test_gpus_of_others_are_not_leased_by_number_or_by_uuid(machine, run, tmp_path, monkeypatch):
    """The same GPU has one lock, however it is named."""
    machine(2)
    monkeypatch.setenv(VISIBLE, "1")
    assert read(run(1, "by number")) == "has 1"
    monkeypatch.setenv(VISIBLE, "GPU-b,GPU-a")
    assert read(run(1, "by uuid")) == "has 0"
    assert holders(visible(), tmp_path) == {"1": "by number", "0": "by uuid"}


def test_a_killed_run_frees_its_gpu_at_once_and_who_waits_gets_that_one(machine, run, tmp_path):
    machine(2)
    first, second = run(1, "first"), run(1, "second")
    assert {read(first), read(second)} == {"has 0", "has 1"}
    third = run(1, "third")
    time.sleep(0.5)
    (tmp_path / "marks/0").unlink()
    victim = first if holders(visible(), tmp_path)["0"] == "first" else second
    victim.kill()  # SIGKILL
    assert read(third) == "has 0"


def test_many_runs_share_few_gpus_and_each_has_its_turn(machine, run, tmp_path):
    """Two at a time on one GPU would end with an error, because its mark is there."""
    machine(3)
    runs = [run(count, f"run {number}", 0.2) for number, count in enumerate((1, 2, 1, 3, 1, 1, 2, 1))]
    assert [process.wait(timeout=60) for process in runs] == [0] * 8
    assert list((tmp_path / "marks").iterdir()) == []
    assert holders(visible(), tmp_path) == {}


def test_a_run_that_needs_several_gpus_is_not_passed_by_runs_that_need_one(machine, run, tmp_path):
    machine(2)
    first = run(1, "first")
    assert read(first) == "has 0"
    several = run(2, "several", 0.3)
    time.sleep(0.5)
    later = run(1, "later", 0.1)
    time.sleep(0.5)
    assert holders(visible(), tmp_path).keys() == {"0", "1"}  # one is kept free for the run that needs two
    (tmp_path / "marks/0").unlink()
    first.kill()
    assert read(several) == "has 0 1"
    assert read(later).startswith("has")


def test_who_waits_for_one_of_several_is_told_who_has_them(machine, run, tmp_path):
    machine(2)
    assert read(run(2, "first (train)", 0.7)) == "has 0 1"
    said = []
    with lease(1, "second", said.append, tmp_path):
        pass
    assert said == ["waiting for 1 of 2 GPUs (0: first (train); 1: first (train))"]


def written(tmp_path: Path, device: str = "cuda", count: int = 1) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"model": {"device": device, "devices": count}}))
    return path


@pytest.mark.parametrize(
    ("module", "count", "seen"),
    [
        ("tasks.train", 1, "0"),
        ("tasks.train", 2, "0,1"),
        ("tasks.answers", 2, "0,1"),
        ("tasks.merge", 2, "0"),
        ("tasks.evaluate", 2, "0"),
    ],
)
def test_a_stage_without_a_lease_sees_as_many_gpus_as_it_uses(machine, tmp_path, monkeypatch, module, count, seen):
    machine(3)
    confine(module, written(tmp_path, count=count), tmp_path)
    assert os.environ[VISIBLE] == seen
    holding = module != "tasks.evaluate"
    assert list(holders(devices.listed(), tmp_path)) == (seen.split(",") if holding else [])


def test_a_stage_without_a_lease_takes_a_free_gpu_and_shares_one_if_there_is_none(machine, run, tmp_path, monkeypatch):
    machine(2)
    assert read(run(1, "a flow")) == "has 0"
    confine("tasks.train", written(tmp_path), tmp_path)
    assert os.environ[VISIBLE] == "1"
    monkeypatch.delenv(VISIBLE)
    confine("tasks.train", written(tmp_path), tmp_path)  # nothing is free now
    assert os.environ[VISIBLE] == "0"


@pytest.mark.parametrize(
    ("params", "environment"),
    [("model: {device: cpu}", {}), ("model: {device: cuda}", {LEASED: "1"}), ("model: [", {}), ("[]", {}), (None, {})],
)
def test_nothing_is_changed_on_a_cpu_under_a_lease_or_without_parameters(
    machine, tmp_path, monkeypatch, params, environment
):
    machine(2)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if params is not None:
        (tmp_path / "params.yaml").write_text(params)
    confine("tasks.train", tmp_path / "params.yaml", tmp_path)
    assert VISIBLE not in os.environ


@pytest.mark.parametrize(("allowed", "seen"), [(None, "0"), ("3,1", "3"), ("GPU-x,1", "GPU-x")])
def test_without_the_drivers_tool_a_stage_sees_the_first_gpu(tmp_path, monkeypatch, allowed, seen):
    monkeypatch.setattr(devices, "listed", list)
    unset(monkeypatch)
    if allowed:
        monkeypatch.setenv(VISIBLE, allowed)
    confine("tasks.merge", written(tmp_path), tmp_path)
    assert os.environ[VISIBLE] == seen.partition(",")[0]


def test_a_stage_that_dvc_starts_is_confined_before_it_imports_torch(machine, tmp_path):
    machine(2)
    written(tmp_path)
    code = (
        "import sys; sys.argv[0] = '-m'; sys.orig_argv = ['python', '-m', 'tasks.train', 'data/base']; import tasks; "
        "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['CUDA_DEVICE_ORDER'], 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "0 PCI_BUS_ID False\n", done.stderr


def test_a_lock_file_is_shared_by_all_users_and_no_link_is_followed(machine, tmp_path):
    machine(1)
    with lease(1, "first", print, tmp_path):
        pass
    lock = tmp_path / "stance-pipeline.GPU-a0f0"
    assert lock.stat().st_mode & 0o777 == 0o666
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), lease(1, "first", print, tmp_path):
        pass


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("train", 4),
        ("answers_base", 4),
        ("answers_aligned", 4),
        ("merge", 1),
        ("pairs", 0),
        ("judge", 0),
        ("report", 0),
    ],
)
def test_a_stage_leases_what_it_uses(tmp_path, stage, expected):
    values = compose("breeze-7b", {"model.devices": 4})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "dvc.yaml").write_bytes(Path("dvc.yaml").read_bytes())
    assert stages.devices(stage, tmp_path) == expected


def test_the_stages_that_use_several_gpus_depend_on_their_number():
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text("utf-8"))["stages"]
    listing = {stage for stage, entry in pipeline.items() if {"model", "model.devices"} & set(entry["params"])}
    using = {stage for stage, entry in pipeline.items() if devices.SEVERAL & set(entry["cmd"].split())}
    assert using == {"train", "answers_base", "answers_aligned", "judge", "sample"}
    assert using <= listing
