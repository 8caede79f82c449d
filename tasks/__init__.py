"""The stages of the pipeline, one module each; `dvc.yaml` runs them."""

import gc

# What torch, transformers and vLLM make while they are imported stays; walking it at Python's own threshold of 700 new
# objects takes a fifth of a stage's start.
gc.set_threshold(100_000, 50, 100)
