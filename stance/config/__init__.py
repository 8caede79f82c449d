"""The parameters of a run: `params.yaml` as checked, immutable values, and the profiles that it starts from."""
