"""What the long tests use instead of its small counterpart."""

import pytest

from tests.builders.aligned_project import Aligned, align


@pytest.fixture(scope="session")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Aligned:
    """This project after the first run of its default profile."""
    return align(tmp_path_factory.mktemp("aligned") / "project")
