"""An engine that holds more memory than it may ends alone, and the message names the figures."""

import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stance.machine.memory import GIB, Room
from stance.machine.supervisor import guarded, release
from stance.serving import engine as engines
from stance.serving import engine_memory
from stance.serving.candidate import ServableModel
from stance.serving.engine import Engine, ServeRequest

HOG = "import time; held = bytearray(300 * 2**20); print('holds', flush=True); time.sleep(60)"
IDLE = "import time; print('idles', flush=True); time.sleep(60)"
SETTINGS = {"gpu-memory-utilization": 0.5, "max-num-seqs": 100}


def engine(code: str, limit: int = 0) -> Engine:
    model = ServableModel(
        name="one", provenance={"release": "one", "released": False}, model=Path("model"), system_prompt="?",
        max_new_tokens=8, gpu=False,
        weights=10 * 2**20, cache_per_token=1024, window=1024, overhead=2 * GIB,
    )  # fmt: skip
    started = Engine(1, ServeRequest(), model, 1, guarded([sys.executable, "-c", code], stdout=subprocess.PIPE))
    started.allowed = limit
    return started


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".serve").mkdir()
    Path(".serve/engine-1.log").write_text("INFO started\n")


def test_an_engine_that_holds_too_much_is_ended_alone_and_soon():
    hog, idle = engine(HOG, 200 * 2**20), engine(IDLE, 200 * 2**20)
    try:
        for started in (hog, idle):
            engine_memory.watch(
                started.process.pid, started.allowed, lambda size, to=started: setattr(to, "outgrown", size)
            )
        began = time.monotonic()
        assert hog.process.wait(timeout=20) == 128 + signal.SIGKILL
        assert time.monotonic() - began < 10
        assert idle.alive()
    finally:
        release(hog.process)
        release(idle.process)
    told = engines.ending(hog)
    assert re.match(r"it held 0\.[23] GiB of memory and may hold 0\.2: `memory` in deploy/limits\.yaml; ", told)


def test_linux_ends_an_engine_before_all_others():
    started = engine(IDLE)
    try:
        engine_memory.first_to_end(started.process.pid)
        assert Path(f"/proc/{started.process.pid}/oom_score_adj").read_text() == "1000\n"
    finally:
        release(started.process)
    engine_memory.first_to_end(started.process.pid)  # has ended: nothing to do


def test_a_kill_by_linux_for_memory_is_named_and_the_log_is_kept(monkeypatch):
    started = engine(IDLE)
    release(started.process)
    monkeypatch.setattr(started.process, "returncode", 128 + signal.SIGKILL)
    assert "it was ended by the signal SIGKILL; see .serve/engine-1-ended-" in engines.ending(started)
    monkeypatch.setattr(engine_memory, "kills_for_memory", lambda: started.kills + 1)
    told = engines.ending(started)
    assert told.startswith(
        f"Linux killed it, because memory ran out; .serve/engine-1-ended-{datetime.now(UTC):%Y%m%dT}"
    )
    log = Path(told.split("; ")[1].removesuffix(" is its log"))
    Path(".serve/engine-1.log").write_text("the next engine")
    assert log.read_text() == "INFO started\n"


def test_the_last_logs_are_kept():
    for number in range(engines.KEPT + 3):
        Path(".serve/engine-1.log").write_text(str(number))
        last = engines.kept(Path(".serve/engine-1.log"))
    assert len(list(Path(".serve").glob("engine-1-ended-*.log"))) == engines.KEPT
    assert last.read_text() == str(engines.KEPT + 2)


def test_what_an_engine_may_hold_is_what_it_needs_and_some_more():
    started = engine("pass")
    release(started.process)
    model = started.candidate
    needed = engine_memory.needed(model, SETTINGS, 64 * GIB)
    assert engine_memory.allowed(model, SETTINGS, 64 * GIB, None) == needed + model.weights + engine_memory.SPARE
    assert engine_memory.allowed(model, SETTINGS, 64 * GIB, 12) == 12 * GIB
    gpu = model.model_copy(update={"gpu": True})
    assert engine_memory.allowed(gpu, SETTINGS, 64 * GIB, None) == 8 * GIB + model.weights


def test_an_engine_computes_in_float32_where_the_cpu_has_no_products_of_bf16():
    started = engine("pass")
    release(started.process)
    settings = {**SETTINGS, "max-num-seqs": 1}
    bf16, float32 = (started.candidate.model_copy(update={"dtype": dtype}) for dtype in ("bfloat16", "float32"))
    assert "--dtype" not in engines.arguments(bf16, 1, settings, Room(64 * GIB, 64 * GIB))
    assert "--dtype float32" in " ".join(engines.arguments(float32, 1, settings, Room(64 * GIB, 64 * GIB)))
