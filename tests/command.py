"""`primum` as processes of their own that start at once: forked from one that has everything imported.

Most of what a command takes in a test is importing torch and Flower. A worker keeps one process that has done so, and
forks it for each command: own memory, arguments, environment, session, output and exit code. Commands that need a
terminal, and tests of how a process starts and ends, start Python anew.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from functools import lru_cache
from pathlib import Path

_SERVER = """
import atexit, json, os, sys, threading, traceback
import primum.diagnosis.data_owner, primum.diagnosis.results, primum.diagnosis.deploy, primum.federation.node
import primum.federation.coordinator, primum.federation.scientist, primum.federation.scoring, primum.federation.explain
import primum.tasks.simulation, primum.imaging.masked, primum.report
from primum.cli import main

def become(task):
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(task["out"], os.O_WRONLY | os.O_APPEND), 1)
    os.dup2(os.open(task["err"], os.O_WRONLY | os.O_APPEND), 2)
    sys.stdin = open(0)
    sys.stdout.reconfigure(write_through=True)
    os.environ.clear()
    os.environ.update(task["environment"])
    os.chdir(task["folder"])
    sys.argv, code = ["primum", *task["arguments"]], 0
    try:
        exec(task["before"], {})
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    if "ended" in task:
        _, status = os.waitpid(task["ended"], 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    child = os.fork()
    if child == 0:
        become(task)
    print(child, flush=True)
"""
_asking = threading.Lock()


@lru_cache(maxsize=1)
def _server() -> "subprocess.Popen[str]":
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    atexit.register(server.kill)
    assert server.stdout is not None and server.stdout.readline() == "ready\n"
    return server


def _ask(**task: object) -> int:
    with _asking:
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(task) + "\n")
        return int(server.stdout.readline())


class Forked:
    """A running `primum`, with what of `subprocess.Popen` the tests use."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        out: Path,
        err: Path,
        environment: dict[str, str],
        folder: Path | None = None,
        before: str = "",
    ) -> None:
        """`before` is Python that runs first, to set a constant."""
        self.args = arguments
        self.pid = _ask(
            arguments=arguments,
            out=str(out.resolve()),
            err=str(err.resolve()),
            environment=environment,
            folder=str(folder or Path.cwd()),
            before=before,
        )
        self.returncode: int | None = None
        self._descriptor = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._reaped(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code when it has ended; TimeoutExpired."""
        code = self._reaped(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def _reaped(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._descriptor], [], [], seconds)[0]:
            self.returncode = _ask(ended=self.pid)
            os.close(self._descriptor)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To it alone; nothing where it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """With SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """With SIGTERM."""
        self.send_signal(signal.SIGTERM)


def run_command(
    *arguments: str | os.PathLike[str], timeout: float = 120, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """`primum` with these arguments, nothing at standard input; `environment` is added to the worker's."""
    words = tuple(map(str, arguments))
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name) / "out", Path(name) / "err"
        out.touch()
        err.touch()
        child = Forked(words, out, err, {**os.environ, "OMP_NUM_THREADS": "1", **environment})
        try:
            code = child.wait(timeout)
        finally:
            child.kill()
            child.wait()
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())
