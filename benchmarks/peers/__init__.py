"""Our stage `train` beside Unsloth and LLaMA-Factory; `benchmarks/peers.md` says how to repeat it."""
