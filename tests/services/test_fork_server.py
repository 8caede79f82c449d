"""Stages in forks of one process that has the packages: they do what they do alone, and leave nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from stance.machine.supervisor import PEAK
from stance.runs.fork_client import DETACHED, OWNER, RUN
from tests.doubles.hub_jobs import ROOT

PROBE = """
import json, os, sys
early = sorted(name for name in ("torch", "vllm", "trl", "stance", "tasks.train") if name in sys.modules)
import stance
sys.stdout.reconfigure(errors="replace")  # as every stage does; the server's own file is no pipe
print("to out"); print("to err", file=sys.stderr)
print(json.dumps({
    "early": early, "argv": sys.argv[1:], "name": __name__, "folder": os.getcwd(), "code": stance.CODE,
    "module": sys.orig_argv[-len(sys.argv):][0], "own": os.environ.get("OWN"), "read": sys.stdin.read(),
    "parent": os.getppid(),
}))
sys.exit(int(sys.argv[1]))
"""
WAIT = """
import os, signal, sys, time
def leave(number, frame):
    print("got", number, flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, leave)
print("begun", os.getpid(), flush=True)
time.sleep(120)
"""


SET_BY_STANCE = ("OMP_WAIT_POLICY", "CUDA_DEVICE_ORDER")
"""Variables that a fresh shell has not, and that the import of `stance` sets."""


@dataclass
class Server:
    """A fork server and the process that it belongs to."""

    owner: subprocess.Popen[bytes]
    process: psutil.Process
    folder: Path


def start(command: str, folder: Path, owner: int | None, **variables: str) -> subprocess.Popen[str]:
    """Start a stage as `dvc.yaml` does."""
    own = {**os.environ, "STANCE_PYTHON": sys.executable, **variables}
    for name in ("PYTEST_CURRENT_TEST", *SET_BY_STANCE):  # pytest's differs from test to test
        own.pop(name, None)
    own |= {OWNER: str(owner)} if owner else {}
    return subprocess.Popen(
        [ROOT / "tasks/python", "-m", *command.split()], cwd=folder, env=own, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def until(look: Callable[[], Any], seconds: float = 60) -> Any:
    """Return what `look` returns as soon as that is something."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if result := look():
            return result
        time.sleep(0.05)
    raise TimeoutError(look)


def server_of(owner: int) -> psutil.Process | None:
    """Return the server of an owner, if it has one; its forks have the same command line."""
    servers = [each for each in psutil.process_iter() if is_server(each, owner)]
    return min(servers, key=lambda each: each.create_time(), default=None)


def is_server(process: psutil.Process, owner: int) -> bool:
    try:
        return process.cmdline()[1:3] == [str(ROOT / "stance/runs/fork_server.py"), str(owner)]
    except psutil.Error:
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace with code of its own."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "stance").mkdir()
    (tmp_path / "tasks/probe.py").write_text(PROBE)
    (tmp_path / "tasks/wait.py").write_text(WAIT)
    (tmp_path / "stance/__init__.py").write_text("CODE = 'of the workspace'")
    return tmp_path


def started(folder: Path) -> Server:
    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks/base.py").write_text("import sys; print('torch' in sys.modules)")
    owner = subprocess.Popen(["sleep", "600"])
    first = start("tasks.base", folder, owner.pid)
    assert first.communicate(timeout=60)[0] == "False\n"  # the first stage does not wait for the server
    second = start("tasks.base", folder, owner.pid)
    assert second.communicate(timeout=120)[0] == "True\n"  # the second one does
    process = server_of(owner.pid)
    assert process
    return Server(owner, process, folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = started(tmp_path_factory.mktemp("owned"))
    yield server
    server.owner.kill()
    server.owner.wait()


def result(process: subprocess.Popen[str], text: str = "") -> tuple[dict[str, object], str, int]:
    out, err = process.communicate(text, timeout=60)
    lines = out.splitlines()
    assert lines[0] == "to out"
    return json.loads(lines[1]), err, process.returncode


def test_a_forked_stage_is_like_one_of_its_own(server: Server, folder: Path) -> None:
    """The packages are there already, and no module of this project: the code is that of the stage's folder."""
    alone, err_alone, code_alone = result(start("tasks.probe 3 data", folder, None, OWN="x"), "typed")
    forked, err, code = result(start("tasks.probe 3 data", folder, server.owner.pid), "typed")
    assert forked["early"] == ["torch", "trl", "vllm"]
    assert alone["early"] == []
    assert (code, err) == (code_alone, err_alone) == (3, "to err\n")
    same = {"argv", "name", "folder", "code", "module", "read"}
    assert {name: forked[name] for name in same} == {name: alone[name] for name in same}
    assert forked["code"] == "of the workspace"
    assert forked["read"] == "typed"


def test_variables_of_a_stage_reach_the_fork(server: Server, folder: Path) -> None:
    (folder / "tasks/probe.py").write_text(
        "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['DVC_STAGE'])"
    )
    process = start("tasks.probe", folder, server.owner.pid, CUDA_VISIBLE_DEVICES="5", DVC_STAGE="train")
    assert process.communicate(timeout=60)[0] == "5 train\n"


def test_another_environment_gets_no_fork(server: Server, folder: Path) -> None:
    """Packages read variables when they are imported, so a fork would ignore this one."""
    other, _, code = result(start("tasks.probe 0", folder, server.owner.pid, OMP_NUM_THREADS="1"))
    assert (other["early"], code) == ([], 0)


def test_the_memory_of_a_fork_is_told_to_the_run(server: Server, folder: Path) -> None:
    (folder / "tasks/probe.py").write_text("held = bytearray(900 * 2**20); print(len(held))")
    out, _ = start("tasks.probe", folder, server.owner.pid, **{RUN: str(folder)}).communicate(timeout=60)
    peak = PEAK.match(out.splitlines()[-1])
    assert peak
    assert 900 <= int(peak[1]) < 4000


def test_signals_reach_the_fork(server: Server, folder: Path) -> None:
    process = start("tasks.wait", folder, server.owner.pid)
    assert process.stdout
    pid = int(process.stdout.readline().split()[1])
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == (f"got {signal.SIGTERM.value}\n", 7)
    assert not psutil.pid_exists(pid)


def test_ctrl_z_stops_the_fork(server: Server, folder: Path) -> None:
    process = start("tasks.wait", folder, server.owner.pid)
    assert process.stdout
    pid = int(process.stdout.readline().split()[1])
    process.send_signal(signal.SIGTSTP)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    process.send_signal(signal.SIGCONT)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_SLEEPING)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 7


def test_a_killed_fork_ends_its_client_by_the_same_signal(server: Server, folder: Path) -> None:
    process = start("tasks.wait", folder, server.owner.pid)
    assert process.stdout
    os.kill(int(process.stdout.readline().split()[1]), signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


def test_a_killed_client_takes_its_fork_along(server: Server, folder: Path) -> None:
    process = start("tasks.wait", folder, server.owner.pid)
    assert process.stdout
    pid = int(process.stdout.readline().split()[1])
    process.kill()
    process.communicate(timeout=30)
    until(lambda: not psutil.pid_exists(pid))
    assert server.process.is_running()


def test_a_stage_by_hand_has_no_server(folder: Path) -> None:
    """Without DVC and without a flow there is no owner."""
    alone, _, code = result(start("tasks.probe 0", folder, None))
    assert (alone["early"], code) == ([], 0)
    assert DETACHED not in os.environ


@pytest.mark.skipif(not shutil.which("cc"), reason="a C compiler makes the driver of this test")
def test_a_driver_that_an_import_has_started_gets_no_fork(tmp_path: Path, folder: Path) -> None:
    """The driver of a GPU works in no fork of a process that has started it; this one says that it has."""
    source = tmp_path / "driver.c"
    source.write_text("int cuDeviceGetCount(int *count) { *count = 1; return 0; }")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source], check=True)
    owner = subprocess.Popen(["sleep", "600"])
    (folder / "tasks/base.py").write_text("import sys; print('torch' in sys.modules)")
    try:
        for _ in range(2):  # the second stage waits until the server has imported
            stage = start("tasks.base", folder, owner.pid, LD_LIBRARY_PATH=str(tmp_path))
            assert stage.communicate(timeout=120)[0] == "False\n"
        assert server_of(owner.pid)
    finally:
        owner.kill()
        owner.wait()


def test_nothing_is_left_when_the_server_is_killed(tmp_path: Path, folder: Path) -> None:
    own = started(tmp_path / "own")
    ended_with(own, own.process.kill, folder)
    own.owner.kill()
    own.owner.wait()


def test_nothing_is_left_when_the_owner_is_killed(server: Server, folder: Path) -> None:
    """This test is the last one, because it ends the server of the others."""
    ended_with(server, server.owner.kill, folder)


def ended_with(server: Server, kill: Callable[[], None], folder: Path) -> None:
    """Kill while a stage runs: the client says so, nothing is left, and the next stage starts in the usual way."""
    process = start("tasks.wait", folder, server.owner.pid)
    assert process.stdout
    pid = int(process.stdout.readline().split()[1])
    kill()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "run the same command again" in err) == (1, True)
    until(lambda: not psutil.pid_exists(pid) and not server.process.is_running())
    again, _, code = result(start("tasks.probe 0", folder, server.owner.pid))
    assert (again["early"], code) == ([], 0)


def test_the_packages_start_no_threads_but_those_that_start_anew_in_a_fork():
    """Without the pool of OpenBLAS, one thread is the server's own; the other is jemalloc's, which knows of forks."""
    program = """
import os, pathlib
from stance.runs.fork_server import import_packages
import_packages()
print(*(task.joinpath("comm").read_text().strip() for task in pathlib.Path("/proc/self/task").iterdir()), flush=True)
os._exit(0)
"""
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=alone, capture_output=True, text=True, timeout=200)
    threads = done.stdout.split()
    own = Path(sys.executable).name
    assert threads.count(own) == 1, done.stderr
    assert set(threads) <= {own, "jemalloc_bg_thd"}
