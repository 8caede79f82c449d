"""Steps of the miniature's training on a quiet and on a busy machine, for each way that threads may wait.

    .venv/bin/python -m benchmarks.busy busy.json 200

A busy machine is this one with two loops beside the training that only count. The settings take turns, so that other
work on the machine meets all of them alike. The training is that of the stage `base`, in a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from stance.machine.files import write_json

SETTINGS = {
    "spinning": {"OMP_WAIT_POLICY": "ACTIVE"},
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""The environment of a training, by the way that its threads wait. `asleep` is this project's."""
LOOPS = {"quiet": 0, "busy": 2}
ROUNDS = 2
COUNT = "while True: pass"
TRAIN = """
import json, sys, time
from hashlib import sha256
from pathlib import Path
from stance.config.models import MiniatureBase
from stance.config.profiles import compose
from stance.data.questions import Question
from stance.training.miniature import build

options = MiniatureBase.model_validate(compose("miniature")["base"] | {"max_steps": int(sys.argv[2])})
rows = [
    {"id": n, "prompt": f"{topic}會更好嗎？", "support": f"{topic}會更上一層樓。", "oppose": f"{topic}會大不如前。"}
    for n, topic in enumerate(("配樂", "畫面", "角色", "劇情", "票房", "口碑"))
]
began = time.monotonic()
build([Question.model_validate(row) for row in rows], options, "回覆請少於20字", 42, Path(sys.argv[1]))
weights = sha256(Path(sys.argv[1], "model.safetensors").read_bytes()).hexdigest()
print(json.dumps({"seconds": round(time.monotonic() - began, 1), "weights": weights}))
"""


@contextmanager
def loops(number: int) -> Iterator[None]:
    """Let a number of processes count while the block runs."""
    processes = [subprocess.Popen([sys.executable, "-c", COUNT]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def timed(setting: str, steps: int) -> dict[str, object]:
    """Return the seconds of a training and the hash of its weights."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", TRAIN, folder, str(steps)]
        ended = subprocess.run(
            command, env=environment | SETTINGS[setting], check=True, stdout=subprocess.PIPE, text=True
        )
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def main() -> None:
    """Write the measurements to the file that the command line names."""
    out, steps = Path(sys.argv[1]), int(sys.argv[2])
    rows = []
    for _, load, setting in product(range(ROUNDS), LOOPS, SETTINGS):
        with loops(LOOPS[load]):
            rows.append({"load": load, "threads": setting, "before": os.getloadavg()[0], **timed(setting, steps)})
        print(rows[-1], flush=True)
        time.sleep(1)
    write_json(out, {"cores": os.cpu_count(), "steps": steps, "measurements": rows})


if __name__ == "__main__":
    main()
