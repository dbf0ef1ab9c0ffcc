"""Fixtures of the federation in one process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.supercore.task_identity import TaskIdentity
from tests.federation.playing import World, build


@pytest.fixture
def three(tmp_path: Path) -> World:
    """Three hospitals, one may collude, none may vanish."""
    return build(tmp_path, 3)


@pytest.fixture
def four(tmp_path: Path) -> World:
    """Four hospitals of which one may vanish in a round (c = d = 1)."""
    return build(tmp_path, 4)


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    """Hospitals as a test wants them."""
    return lambda count, **rules: build(tmp_path, count, **rules)


@pytest.fixture(autouse=True)
def run_of_flower() -> None:
    """Flower's messages want to know the run that they are made in; its own processes set it at their start."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
