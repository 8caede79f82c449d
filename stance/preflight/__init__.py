"""Checks before a run: what would fail later is reported before a download or a training begins."""
