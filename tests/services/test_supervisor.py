"""A guarded command ends with whoever started it, and all that it has started with it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stance.machine.supervisor import MARK, guarded, mark, release, run_to_end, unwatch

# A command with a child in a session of its own, which ignores SIGTERM; it prints both process ids.
STUBBORN = """
import os, signal, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"],
    start_new_session=True,
)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
WAITING = """
import time
from pathlib import Path
while not Path("measured").exists():
    time.sleep(0.1)
time.sleep(0.5)
print("works", flush=True)
while not Path("taken").exists():
    time.sleep(0.1)
time.sleep(0.5)
"""


def pids(process: "subprocess.Popen[str]") -> list[int]:
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


def gone(numbers: list[int], within: float) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not any(psutil.pid_exists(number) for number in numbers):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_of_the_command_is_the_guards(code: int):
    process = guarded([sys.executable, "-c", f"raise SystemExit({code})"])
    assert process.wait(timeout=20) == code
    release(process)


@pytest.mark.parametrize(("marked", "printed"), [(True, r"^peak memory (\d+) MiB, GPU (\d+) MiB\n$"), (False, "^$")])
def test_the_guard_of_a_run_says_last_what_the_largest_process_took_and_nothing_of_the_starter(marked, printed):
    held = bytearray(300 << 20)  # of the starter, and not the command's
    largest = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'bytearray(100 << 20)'])"
    environment = {key: value for key, value in os.environ.items() if key != MARK} | ({MARK: "/run"} if marked else {})
    process = guarded([sys.executable, "-c", largest], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    found = re.search(printed, process.stdout.read())
    release(process)
    assert len(held) == 300 << 20
    assert found
    assert not marked or 100 <= int(found[1]) < 200


def test_the_memory_of_the_gpu_is_the_most_that_the_drivers_tool_says_while_the_command_runs(tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 10; echo 300; echo '[N/A]'; echo 20; exec sleep 600\n")
    tool.chmod(0o755)
    environment = {**os.environ, MARK: "/run", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", "import time; time.sleep(1)"]
    process = guarded(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert re.fullmatch(r"peak memory \d+ MiB, GPU 300 MiB\n", process.stdout.read())
    release(process)
    assert not any(mark(left) == "/run" for left in psutil.process_iter())


def test_the_memory_of_the_gpus_that_others_have_leased_does_not_count(tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\ncase "$*" in *--id=2,3*) echo 300 ;; *) echo 9000 ;; esac; exec sleep 600\n')
    tool.chmod(0o755)
    leased = {"CUDA_VISIBLE_DEVICES": "2,3", "STANCE_LEASED": "1"}
    environment = {**os.environ, MARK: "/run", "PATH": f"{tmp_path}:{os.environ['PATH']}", **leased}
    command = [sys.executable, "-c", "import time; time.sleep(1)"]
    process = guarded(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert re.fullmatch(r"peak memory \d+ MiB, GPU 300 MiB\n", process.stdout.read())
    release(process)


def test_the_memory_that_others_take_on_the_gpu_after_the_stage_does_not_count(tmp_path):
    tool = tmp_path / "nvidia-smi"
    waits = f"while [ ! -e {tmp_path}/taken ]; do sleep 0.1; done"
    tool.write_text(f"#!/bin/sh\necho '[N/A]'; echo 300; touch {tmp_path}/measured; {waits}; exec yes 9000\n")
    tool.chmod(0o755)
    environment = {**os.environ, MARK: "/run", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = guarded([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, env=environment, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "works\n"
    unwatch(process)
    time.sleep(0.5)
    (tmp_path / "taken").touch()
    assert re.fullmatch(r"peak memory \d+ MiB, GPU 300 MiB\n", process.stdout.read())
    release(process)
    assert process.returncode == 0


def test_release_leaves_nothing_of_the_command():
    process = guarded([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    started = pids(process)
    release(process)
    assert gone(started, within=1)


def test_kill_9_of_the_starter_leaves_nothing_after_15_seconds():
    starter = (
        "import subprocess, sys, time; from stance.machine.supervisor import guarded; "
        f"guarded([sys.executable, '-c', {STUBBORN!r}]); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True, env=environment)
    started = pids(process)
    guards = [child.pid for child in psutil.Process(process.pid).children()]
    assert len(started) == 2
    assert len(guards) == 1
    process.kill()
    process.communicate()
    assert gone(started + guards, within=15)


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_that_runs_to_its_end_gives_its_exit_code(code: int):
    assert run_to_end([sys.executable, "-c", f"raise SystemExit({code})"]) == code


def test_an_interruption_ends_the_command_that_is_waited_for_and_what_it_has_started():
    starter = (
        "import sys; from stance.machine.supervisor import run_to_end; "
        f"run_to_end([sys.executable, '-c', {STUBBORN!r}])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen(
        [sys.executable, "-c", starter], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    started = pids(process)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert not any(psutil.pid_exists(number) for number in started)


def test_a_signal_to_the_guard_ends_the_command():
    process = guarded([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    started = pids(process)
    process.send_signal(signal.SIGTERM)
    assert gone(started, within=15)
    release(process)
    assert process.returncode == 128 + signal.SIGTERM
