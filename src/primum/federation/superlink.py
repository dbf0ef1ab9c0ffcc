"""Flower's SuperLink as a child process on 127.0.0.1, and the control calls that only the coordinator may make.

SuperLink serves Fleet, Control and Runtime on one port, and Control lets everyone in: whoever reaches it can execute a
bundle. So nothing but our front is reachable from outside, and it forwards Fleet only (`front.py`).
"""

import ctypes
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from primum.errors import MachineError, Unavailable
from primum.keys.certificate import CertificateFiles, client_context
from primum.ports import free_port

_START_DEADLINE: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1
BUNDLE_DIGEST: Final = "502fe77a33c034a58b620a622461497bf5ffc8de6ace1dc3e90a189c6f7b425a"

_EXCEPTION: Final = re.compile(r"[\w.]+(Error|Exception|Interrupt)\b")

_PROGRAM: Final = "primum.federation.server_app"

# The whole bundle: metadata and three lines. Hospitals never load it; the hub's server program is installed code too.
_BUNDLE: Final = {
    "pyproject.toml": """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "primum-study"
version = "1.0.0"
description = "Runs one Primum study with installed code"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "primum"

[tool.flwr.app.components]
serverapp = "primum_study:app"
clientapp = "primum_study:client"

[tool.flwr.app.config]
run = ""
""",
    "primum_study.py": '''"""Installed code only."""
from primum.federation.server_app import app, client
__all__ = ["app", "client"]
''',
}


def _die_with_parent() -> None:
    """Linux: a SuperLink whose coordinator was killed would go on with its runs beside the next one's."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def environment(state: Path) -> dict[str, str]:
    """The environment of every Flower process: no telemetry, no update check, nothing outside the state folder."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_HOME": str(state / "flower"),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.3",
        "PRIMUM_STATE": str(state),
        "OMP_NUM_THREADS": "1",
    }


@dataclass
class SuperLink:
    """A running SuperLink; `port` is on 127.0.0.1."""

    process: subprocess.Popen[bytes]
    port: int
    certificate: str
    log: Path

    @classmethod
    def start(cls, state: Path, files: CertificateFiles) -> "SuperLink":
        """Start it and wait until it answers; MachineError with its last words if it does not."""
        port, others = free_port(), (free_port(), free_port())
        log = state / "superlink.log"
        command = [
            str(Path(sys.executable).parent / "flower-superlink"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--fleet-api-address", f"127.0.0.1:{others[0]}", "--control-api-address", f"127.0.0.1:{others[1]}"),
            *("--ssl-certfile", str(files.certificate), "--ssl-keyfile", str(files.private_key)),
            *("--ssl-ca-certfile", str(files.certificate)),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation", "--isolation", "subprocess"),
        ]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment(state), cwd=state, preexec_fn=_die_with_parent
            )
        link = cls(process, port, files.pem(), log)
        link._wait(log)
        return link

    def _wait(self, log: Path) -> None:
        until = time.monotonic() + _START_DEADLINE
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        self.stop()
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing was logged"]
        raise MachineError(f"Flower's SuperLink did not start: {last[0][:300]}.", f"The whole log is {log}.")

    def stop(self) -> None:
        """End it and what it started."""
        self.process.terminate()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def answers(self) -> bool:
        """Whether it runs and answers within a few seconds."""
        if self.process.poll() is not None:
            return False
        try:
            httpx.get(f"https://127.0.0.1:{self.port}/", verify=client_context(self.certificate), timeout=2)
        except httpx.HTTPError:
            return False
        return True

    def _control(self) -> Any:
        from flwr.supercore.control.control_http_client import ControlHttpClient
        from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor

        interceptors = [RuntimeVersionHttpInterceptor(component_name="flwr")]
        return ControlHttpClient.from_server_address(
            f"127.0.0.1:{self.port}", False, self.certificate.encode(), interceptors
        )

    def register(self, public_key: bytes) -> None:
        """Let in the node with this transport key (P-384, PEM); a key that is known already is fine."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        with self._control() as client:
            try:
                client.RegisterNode(RegisterNodeRequest(public_key=public_key))
            except httpx.HTTPStatusError as error:
                if "already in use" not in error.response.text.lower():
                    raise Unavailable(f"SuperLink refuses the node: {error.response.text[:200]}.") from error

    def keep_only(self, public_keys: Collection[bytes]) -> None:
        """Let out every node whose transport key is not one of these.

        One that was registered and never connected stays: Flower cannot take it out (and the front lets nobody to it).
        """
        from flwr.proto.control_pb2 import ListNodesRequest, UnregisterNodeRequest

        with self._control() as client:
            for node in client.ListNodes(ListNodesRequest()).nodes_info:
                if node.public_key not in public_keys and node.status in ("online", "offline"):
                    client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))

    def start_run(self, run: str, content: bytes | None = None) -> int:
        """Start the server program (or that of another bundle) for the run with that folder name.

        Returns Flower's run number.
        """
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        content = content or bundle()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto({"run": run}))
        with self._control() as client:
            return int(client.StartRun(request).run_id)

    def stop_run(self, number: int) -> None:
        """End a server program that does not end by itself."""
        from flwr.proto.control_pb2 import StopRunRequest

        with self._control() as client:
            client.StopRun(StopRunRequest(run_id=number))

    @property
    def log_size(self) -> int:
        """Bytes that SuperLink and the server programs have logged so far."""
        return self.log.stat().st_size

    def last_error(self, begun: int) -> str:
        """The last exception in the log from byte `begun` on, as Python names it; empty where there is none."""
        with self.log.open("rb") as file:
            file.seek(begun if begun <= self.log_size else 0)
            lines = file.read().decode(errors="replace").splitlines()
        found = [line for line in lines if _EXCEPTION.match(line)]
        return found[-1][:300] if found else ""

    def run_status(self, number: int) -> str:
        """Flower's word on a run: pending, starting, running, or finished with its reason."""
        from flwr.proto.control_pb2 import ListRunsRequest

        with self._control() as client:
            runs = client.ListRuns(ListRunsRequest(run_id=number)).run_dict
        status = runs[number].status
        return f"{status.status} {status.sub_status} {status.details}".strip()


def bundle(program: str = "primum.federation.server_app") -> bytes:
    """The fixed app bundle (benchmarks measure another `program` in the same way); its SHA-256 is BUNDLE_DIGEST in every release (a test compares)."""
    from flwr.cli.build import build_fab_from_files

    content: bytes
    content, _ = build_fab_from_files(
        {name: text.replace(_PROGRAM, program).encode() for name, text in _BUNDLE.items()}
    )
    return content
