"""Answers and log-probabilities of a model, by vLLM, for one batch of prompts at a time."""
