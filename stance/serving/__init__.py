"""For those who answer: one vLLM engine or two behind HAProxy."""
