"""What a server counts for whoever runs it."""

import re
import time

import pytest
from tests.diagnosis.conftest import images

from primum.diagnosis.data_owner import diagnose
from primum.diagnosis.metrics import Metrics
from primum.errors import PeerError, Refused, Unavailable


def values(text):
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_the_file_counts_how_requests_ended(tmp_path):
    metrics = Metrics(tmp_path / "metrics.prom")
    metrics.answered(3, 0.25)
    metrics.answered(1, 0.5)
    for error in (Refused("a", "b"), Unavailable("a", "b"), PeerError("a", "b"), PeerError("a", "b")):
        metrics.failed(error)
    metrics.save(2)
    found = values((tmp_path / "metrics.prom").read_text())
    assert found == {
        'primum_requests_total{ended="answered"}': 2,
        'primum_requests_total{ended="refused"}': 1,
        'primum_requests_total{ended="unavailable"}': 1,
        'primum_requests_total{ended="failed"}': 2,
        "primum_images_total": 4,
        "primum_run_seconds_total": 0.75,
        "primum_waiting": 2,
    }


def test_every_value_has_its_type_as_prometheus_asks(tmp_path):
    text = Metrics(tmp_path / "metrics.prom").text(0)
    for name in {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}:
        assert re.search(rf"^# TYPE {name} (counter|gauge)$", text, re.MULTILINE)
    assert text.endswith("\n")


@pytest.mark.parametrize("role", ["A", "B"])
def test_a_running_server_keeps_its_file(cluster, role):
    path = cluster.folder / role / "metrics.prom"

    def answered():
        return values(path.read_text())["primum_images_total"] if path.exists() else 0

    time.sleep(1.2)  # what came before is written
    before = answered()
    diagnose(images(2), cluster.public)
    deadline = time.monotonic() + 10
    while answered() < before + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert answered() == before + 2
