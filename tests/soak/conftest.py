"""Fixtures of the long tests: they measure the default profile as it is."""

import pytest

from tests.builders.aligned_project import Aligned


@pytest.fixture(scope="session")
def aligned(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Aligned:
    """This project, aligned at ratio 1 once for all tests."""
    return Aligned(tmp_path_factory.mktemp("aligned") / "once", lambda: prefect_api)
