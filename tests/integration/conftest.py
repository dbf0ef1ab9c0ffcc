"""One cluster of real processes for all tests of this folder."""

from collections.abc import Iterator

import pytest
from tests.integration.cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator and four hospitals; started once, ended with the tests."""
    made = object.__new__(Cluster)
    made.nodes = {}
    try:
        made.__init__(tmp_path_factory.mktemp("cluster"))  # type: ignore[misc]
        yield made
    finally:
        made.close()
