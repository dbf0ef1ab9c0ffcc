"""docs/how-to/two-machines.md in two network namespaces joined by a cable: the node's sees nothing but the coordinator's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CABLE = """
set -eu
ip link set lo up
ip link add hub type veth peer name hospital
ip addr add 10.77.0.1/24 dev hub && ip link set hub up
unshare --net sleep 100 & other=$!
trap 'kill $other ${coordinator:-} 2>/dev/null' EXIT
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.02; done
ip link set hospital netns $other
there="nsenter --net=/proc/$other/ns/net"
$there ip link set lo up && $there ip addr add 10.77.0.2/24 dev hospital && $there ip link set hospital up
"""

STUDY = """
primum coordinator --state hub --host 10.77.0.1 > hub.log 2>&1 & coordinator=$!
until grep -q "Coordinator ready at 10.77.0.1:9443" hub.log; do kill -0 $coordinator; sleep 0.05; done
primum coordinator --state hub invite North > north.join
$there primum doctor --join north.join --state north
"""


def _namespaces() -> bool:
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    tried = ["unshare", "-Urn", "ip", "link", "add", "one", "type", "veth", "peer", "name", "two"]
    return subprocess.run(tried, capture_output=True, timeout=10).returncode == 0


@pytest.mark.skipif(not _namespaces(), reason="this system lets nobody make network namespaces")
def test_a_hospital_on_another_machine_reaches_the_coordinator(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    script = ["unshare", "-Urn", "sh", "-c", CABLE + STUDY]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=90, env=environment)
    assert done.returncode == 0, (done.stdout, done.stderr, *(log.read_text() for log in tmp_path.glob("*.log")))
    assert "10.77.0.1 port 9443 answers" in done.stdout
    assert "the one of the join file" in done.stdout
    assert "failed" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith(
        "Allow from this computer: outbound TCP to 10.77.0.1 port 9443, TLS 1.3."
    )
