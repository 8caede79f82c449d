"""vLLM for one batch of prompts."""
