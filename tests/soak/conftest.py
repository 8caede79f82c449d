"""Fixtures of the long tests: they measure the default profile as it is."""

from pathlib import Path

import pytest

from tests.builders.aligned_project import Aligned
from tests.builders.this_project import Run, command, copy_of_this_project


@pytest.fixture(scope="session")
def aligned(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Aligned:
    """This project, aligned at ratio 1 once for all tests."""
    return Aligned(tmp_path_factory.mktemp("aligned") / "once", lambda: prefect_api)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project with the default profile; nothing has run."""
    return copy_of_this_project(tmp_path_factory.mktemp("smollm2") / "project", profile="smollm2-135m")


@pytest.fixture(scope="session")
def honest(smollm2: Path) -> Run:
    """The first run of the default profile, at ratio 1, in the folder `smollm2`."""
    return command(smollm2, "dvc", "repro")
