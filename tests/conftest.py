"""What all tests share: where the real images are, and how hypothesis runs."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several workers: threads of one would wait for those of the other
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as where a shell starts the tests in the background: tests of
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C start processes, which would ignore it as well
settings.register_profile("primum", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
settings.load_profile("primum")

_LONG = ("tests/test_demo.py", "tests/integration/", "tests/cli/", "tests/diagnosis/", "tests/federation/")
"""Files that start processes: begun first, so that no worker is left with one of them at the end."""
_REPOSITORY = Path(__file__).resolve().parent.parent


def _real_data() -> Path | None:
    folder = Path(os.environ.get("PRIMUM_DATA") or _REPOSITORY.parent / "shared" / "data")
    if folder.is_dir():
        return folder.resolve()
    if os.environ.get("PRIMUM_REQUIRE_DATA") == "1":
        raise pytest.UsageError(f"PRIMUM_REQUIRE_DATA=1, but there are no real images in {folder}")
    return None


@pytest.fixture(scope="session")
def real_data() -> Path | None:
    """The folder of real images (PRIMUM_DATA), or None: then tests use drawn images."""
    return _real_data()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; workers take files in this order (`--no-loadscope-reorder`)."""

    def rank(item: pytest.Item) -> int:
        return next((place for place, start in enumerate(_LONG) if item.nodeid.startswith(start)), len(_LONG))

    items.sort(key=rank)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The last line says whether real images were there."""
    found = _real_data()
    terminalreporter.write_line(f"real images: {'not found' if found is None else 'found'}")
