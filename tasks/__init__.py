"""The stages of the pipeline, one module each; `dvc.yaml` runs them."""

import atexit
import gc
import sys
from pathlib import Path

import stance  # noqa: F401 - imported first, because it reports a wrong interpreter
from stance.machine.devices import confine
from stance.machine.timing import record_seconds

atexit.register(record_seconds)

if sys.argv[0] == "-m":  # Python looks for the stage that it runs, and has not imported torch
    confine(sys.orig_argv[sys.orig_argv.index("-m") + 1], Path("params.yaml"))

# A collection walks every object that torch, transformers and vLLM make during their import. At Python's own threshold
# of 700 new objects, this takes a fifth of a stage's start.
gc.set_threshold(100_000, 50, 100)
