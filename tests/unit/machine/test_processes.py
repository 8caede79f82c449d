"""Which processes still run, and with which code a guarded one ends."""

import signal
import subprocess
import sys
import time

import psutil

from stance.machine.processes import is_running
from stance.machine.supervisor import guarded, release


def sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def test_a_process_runs_until_it_is_killed_even_if_nobody_has_asked_for_its_exit_code():
    process = sleeper()
    started = psutil.Process(process.pid).create_time()
    assert is_running(process.pid, started)
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not is_running(process.pid, started)
    process.wait()
    assert not is_running(process.pid, started)


def test_a_later_process_of_the_same_number_is_another_one():
    process = sleeper()
    started = psutil.Process(process.pid).create_time()
    assert not is_running(process.pid, started - 1)
    process.kill()
    process.wait()


def test_a_command_that_ends_with_its_starter_was_ended_by_sigterm():
    for _ in range(5):
        guard = guarded([sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"], stdout=-1)
        assert guard.stdout is not None
        guard.stdout.readline()
        release(guard)
        assert guard.returncode == 128 + signal.SIGTERM
