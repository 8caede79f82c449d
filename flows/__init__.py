"""Prefect flows over the stages that `dvc.yaml` describes."""

import stance  # noqa: F401 - imported first, because it reports a wrong interpreter
