"""Checks before a run: what would fail later is reported within seconds, before a download or a training begins."""
