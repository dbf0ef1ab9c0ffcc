"""Fixtures of secure aggregation."""

from collections.abc import Iterator
from functools import lru_cache

import pytest
from tests.secagg.playing import federation

from primum.secagg import messages

__all__ = ["federation"]


@pytest.fixture(autouse=True, scope="session")
def each_good_signature_is_checked_once() -> Iterator[None]:
    """A hundred members of one process would each check the same; one that does not hold is checked every time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "verify", lru_cache(maxsize=4096)(messages.verify))
        yield
