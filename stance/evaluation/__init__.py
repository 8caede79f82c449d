"""Stances, figures and verdicts."""
