"""Our stage under the stopwatch: `python -m benchmarks.peers.ours OUT.json tasks.train ARGUMENTS`, as in `dvc.yaml`."""

import runpy
import sys
from pathlib import Path

from benchmarks.peers.stopwatch import start

if __name__ == "__main__":
    start(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
