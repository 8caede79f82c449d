"""Runs: the stages of DVC, the workspaces, and the records of each run."""
