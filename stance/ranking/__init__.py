"""Ranking sampled answers: the page of `make rank`, the command `votes`, and votes by a model."""
