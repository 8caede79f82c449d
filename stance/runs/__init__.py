"""Runs: DVC's stages, workspaces, locks and what is recorded of each."""
